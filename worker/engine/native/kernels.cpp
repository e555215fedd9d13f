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

constexpr int64_t TOKENS = 8;  // whose values are weighed at a time

// Ask the memory for all of it at once: by itself the processor asks for one line after another, and anew on each page.
inline void fetch(const float* from, int64_t count) {
    for (int64_t i = 0; i < count; i += 16) __builtin_prefetch(from + i);
}

// Eight floats that compilers keep in one register, or in two.
typedef float Eight __attribute__((vector_size(32)));

inline Eight eight(const float* from) {
    Eight value;
    std::memcpy(&value, from, sizeof(value));
    return value;
}

inline float total(Eight v) { return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])); }

// scores[g][at] = scale * (q[g] . keys[at]), g below `group`. Four keys at a time, since one sum alone waits for itself; and all
// queries that share them, so that the next keys come from memory meanwhile.
inline void score(float* scores, const float* q, int64_t query_head, const float* keys, int64_t token, int64_t group,
                  int64_t length, int64_t dim, float scale) {
    const int64_t whole = dim % 8 == 0 ? length / 4 * 4 : 0;
    for (int64_t at = 0; at < whole; at += 4) {
        const float* k = keys + at * token;
        fetch(k, 4 * token);
        for (int64_t g = 0; g < group; ++g) {
            Eight a = {}, b = {}, c = {}, d = {};
            for (int64_t i = 0; i < dim; i += 8) {
                const Eight x = eight(q + g * query_head + i);
                a += x * eight(k + i);
                b += x * eight(k + token + i);
                c += x * eight(k + 2 * token + i);
                d += x * eight(k + 3 * token + i);
            }
            float* to = scores + g * length + at;
            to[0] = scale * total(a);
            to[1] = scale * total(b);
            to[2] = scale * total(c);
            to[3] = scale * total(d);
        }
    }
    for (int64_t at = whole; at < length; ++at)
        for (int64_t g = 0; g < group; ++g)
            scores[g * length + at] = scale * dot(q + g * query_head, keys + at * token, dim);
}

// out[g] = sum over `at` of weights[g][at] * values[at]. Some tokens at a time for all g, for the same reason; 32 elements at a
// time, whose sums stay in registers.
inline void weigh(float* out, const float* weights, const float* values, int64_t token, int64_t group, int64_t length,
                  int64_t dim) {
    for (int64_t i = 0; i < group * dim; ++i) out[i] = 0.0f;
    for (int64_t from = 0; from < length; from += TOKENS) {
        const int64_t to = from + TOKENS < length ? from + TOKENS : length;
        fetch(values + from * token, (to - from) * token);
        for (int64_t g = 0; g < group; ++g) {
            const float* w = weights + g * length;
            float* sum = out + g * dim;
            int64_t i = 0;
            for (; i + 32 <= dim; i += 32) {
                Eight a = eight(sum + i), b = eight(sum + i + 8), c = eight(sum + i + 16), d = eight(sum + i + 24);
                for (int64_t at = from; at < to; ++at) {
                    const float* v = values + at * token + i;
                    a += w[at] * eight(v);
                    b += w[at] * eight(v + 8);
                    c += w[at] * eight(v + 16);
                    d += w[at] * eight(v + 24);
                }
                std::memcpy(sum + i, &a, sizeof(a));
                std::memcpy(sum + i + 8, &b, sizeof(b));
                std::memcpy(sum + i + 16, &c, sizeof(c));
                std::memcpy(sum + i + 24, &d, sizeof(d));
            }
            for (int64_t at = from; at < to && i < dim; ++at) {
#pragma omp simd
                for (int64_t j = i; j < dim; ++j) sum[j] += w[at] * values[at * token + j];
            }
        }
    }
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
                score(scores.data(), q, s.query_head, k, s.key_token, group, length, s.key_dim, s.scale);
                for (int64_t g = 0; g < group; ++g) {
                    float* weights = scores.data() + g * length;
                    const float whole = 1.0f / exponentials(weights, length);
                    for (int64_t at = 0; at < length; ++at) weights[at] *= whole;
                }
                float* o = out + (row * s.heads + key_head * group) * s.value_dim;
                weigh(o, scores.data(), v, s.value_token, group, length, s.value_dim);
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

// Rotary positions (Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021), in place, in the layout that
// pairs element i of a head with element i + dim / 2. states: [rows, >= heads * dim] by stride. cosines, sines: [rows, dim].
void rotate(float* states, const float* cosines, const float* sines, int64_t rows, int64_t heads, int64_t dim, int64_t stride,
            int64_t threads) {
    const int64_t half = dim / 2;
#pragma omp parallel for num_threads(threads) if (rows * heads * dim > 65536)
    for (int64_t row = 0; row < rows; ++row) {
        const float* c = cosines + row * dim;
        const float* s = sines + row * dim;
        for (int64_t head = 0; head < heads; ++head) {
            float* low = states + row * stride + head * dim;
            float* high = low + half;
#pragma omp simd
            for (int64_t i = 0; i < half; ++i) {
                const float a = low[i], b = high[i];
                low[i] = a * c[i] - b * s[i];
                high[i] = b * c[half + i] + a * s[half + i];
            }
        }
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
