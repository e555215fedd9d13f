// What torch does in several passes over the memory, or over more of it than is needed. What a row gets depends on its own numbers
// alone, in a fixed order: never on who else is in the batch, nor on the number of threads.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

// exp for x <= 0 in a form that compilers vectorize: 2^n from the exponent's bits, e^r by its Taylor polynomial for
// |r| <= ln(2)/2; within 2 units in the last place. (The libm's own is a call an element.)
inline float fast_exp(float x) {
    x = x < -87.0f ? -87.0f : x;
    const float n = std::floor(x * 1.44269504088896f + 0.5f);
    float r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    union {
        int32_t bits;
        float value;
    } power;
    power.bits = (static_cast<int32_t>(n) + 127) << 23;
    return p * power.value;
}

inline float dot(const float* a, const float* b, int64_t n) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
    return sum;
}

// Turns scores into exp(score - largest) and returns their sum.
inline float exponentials(float* scores, int64_t n) {
    float largest = scores[0];
#pragma omp simd reduction(max : largest)
    for (int64_t i = 0; i < n; ++i) largest = scores[i] > largest ? scores[i] : largest;
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i) {
        scores[i] = fast_exp(scores[i] - largest);
        sum += scores[i];
    }
    return sum;
}

}  // namespace

extern "C" {

struct Shape {
    int64_t rows, heads, key_heads, key_dim, value_dim;
    int64_t query_token, query_head;           // strides of query, in floats; its last dimension is contiguous
    int64_t key_slot, key_head, key_token;     // strides of keys
    int64_t value_slot, value_head, value_token;  // and of values
    int64_t window;                            // newest tokens that are seen; 0: all
    int64_t threads;
    float scale;
};

// One new token of each of many rows attends to its own slot of the cache, at the row's exact length.
//
// scaled_dot_product_attention wants one length for the whole batch: it reads every slot up to the longest row, and what
// it masks it has read. This is bound by that reading, so reading less is the whole gain (benchmarks/notes.md).
//
// positions: of each row's new token, so it sees positions[row] + 1 of slot `row`. out: [rows, heads, value_dim].
void decode_attention(float* out, const float* query, const float* keys, const float* values, const int64_t* positions,
                      const Shape* shape) {
    const Shape& s = *shape;
    const int64_t group = s.heads / s.key_heads;  // query heads that share a key head, and so one reading of it
#pragma omp parallel num_threads(s.threads)
    {
        std::vector<float> scores;
#pragma omp for collapse(2) schedule(dynamic, 1)
        for (int64_t row = 0; row < s.rows; ++row) {
            for (int64_t key_head = 0; key_head < s.key_heads; ++key_head) {
                const int64_t end = positions[row] + 1;
                const int64_t begin = s.window > 0 && end > s.window ? end - s.window : 0;
                const int64_t length = end - begin;
                if (static_cast<int64_t>(scores.size()) < group * length) scores.resize(group * length);
                const float* q = query + row * s.query_token + key_head * group * s.query_head;
                const float* k = keys + row * s.key_slot + key_head * s.key_head + begin * s.key_token;
                const float* v = values + row * s.value_slot + key_head * s.value_head + begin * s.value_token;
                for (int64_t at = 0; at < length; ++at)
                    for (int64_t g = 0; g < group; ++g)
                        scores[g * length + at] =
                            s.scale * dot(q + g * s.query_head, k + at * s.key_token, s.key_dim);
                float* o = out + (row * s.heads + key_head * group) * s.value_dim;
                for (int64_t i = 0; i < group * s.value_dim; ++i) o[i] = 0.0f;
                for (int64_t g = 0; g < group; ++g) {
                    float* weights = scores.data() + g * length;
                    const float whole = 1.0f / exponentials(weights, length);
                    for (int64_t at = 0; at < length; ++at) weights[at] *= whole;
                }
                for (int64_t at = 0; at < length; ++at)
                    for (int64_t g = 0; g < group; ++g) {
                        const float weight = scores[g * length + at];
                        const float* value = v + at * s.value_token;
                        float* sum = o + g * s.value_dim;
#pragma omp simd
                        for (int64_t i = 0; i < s.value_dim; ++i) sum[i] += weight * value[i];
                    }
            }
        }
    }
}

// Copies each row's new state to its place in its slot. states: [heads, rows, dim] by state_head and state_row.
void write_rows(float* store, const float* states, const int64_t* slots, const int64_t* positions, int64_t rows, int64_t heads,
                int64_t dim, int64_t state_head, int64_t state_row, int64_t slot, int64_t head, int64_t token) {
    for (int64_t row = 0; row < rows; ++row) {
        float* at = store + slots[row] * slot + positions[row] * token;
        const float* from = states + row * state_row;
        for (int64_t h = 0; h < heads; ++h) std::memcpy(at + h * head, from + h * state_head, dim * sizeof(float));
    }
}

// x / sqrt(mean(x^2) + epsilon) * weight, of each row (Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019).
void rms_norm(float* out, const float* x, const float* weight, int64_t rows, int64_t dim, float epsilon, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (rows * dim > 131072)
    for (int64_t row = 0; row < rows; ++row) {
        const float* from = x + row * dim;
        float* to = out + row * dim;
        const float scale = 1.0f / std::sqrt(dot(from, from, dim) / static_cast<float>(dim) + epsilon);
#pragma omp simd
        for (int64_t i = 0; i < dim; ++i) to[i] = from[i] * scale * weight[i];
    }
}

}
