"""Workload W: 64 requests at once, prompts of 16-128 tokens, outputs of 16-200, and the random models it runs on.

Also read inside vLLM's environment, which has none of our packages.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROMPT_TOKENS = (16, 128)
OUTPUT_TOKENS = (16, 200)
SEED = 154_540  # find_seed(4561, 7304, 200_000): 4,560 prompt and 7,304 output tokens

# The weights are drawn more widely than transformers would (0.02): with that, models answer with one token again and again, and
# equal answers show little. Rounding stays below 0.00002 standard deviations of the logits.
SHAPES: dict[str, dict[str, Any]] = {
    # distilgpt2's shape, 82M parameters.
    "gpt2": {
        "model_type": "gpt2", "n_layer": 6, "n_embd": 768, "n_head": 12, "vocab_size": 50257, "n_positions": 1024,
        "initializer_range": 0.06,
    },
    # Qwen2-0.5B's proportions, 75M parameters: grouped heads, rotary positions, a gated inner layer, tied embeddings.
    "qwen2": {
        "model_type": "qwen2", "hidden_size": 512, "intermediate_size": 2816, "num_hidden_layers": 10,
        "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 50304, "max_position_embeddings": 1024,
        "tie_word_embeddings": True, "initializer_range": 0.06,
    },
    # 4.7M parameters: what the machine does apart from matrix products shows here.
    "tiny": {
        "model_type": "gpt2", "n_layer": 4, "n_embd": 256, "n_head": 4, "vocab_size": 5000, "n_positions": 1024,
        "initializer_range": 0.1,
    },
}  # fmt: skip  # one shape, a few lines


@dataclass(frozen=True, slots=True)
class Job:
    """One request: its prompt, and how many tokens to generate whatever they are."""

    prompt: tuple[int, ...]
    output_tokens: int


def make_workload(vocab_size: int, count: int = 64, seed: int = SEED) -> list[Job]:
    """``count`` jobs; lengths depend on ``seed`` alone, so they are the same for every vocabulary."""
    lengths = random.Random(seed)
    sizes = [(lengths.randint(*PROMPT_TOKENS), lengths.randint(*OUTPUT_TOKENS)) for _ in range(count)]
    tokens = random.Random(seed + 1)
    return [Job(tuple(tokens.randrange(vocab_size) for _ in range(size)), output) for size, output in sizes]


def warm_up_jobs(vocab_size: int) -> list[Job]:
    """A few short requests on other prompts, for every engine before its clock starts."""
    return [Job(job.prompt, 8) for job in make_workload(vocab_size, 8, SEED + 2)]


def arrival_times(count: int, rate: float, seed: int = SEED) -> list[float]:
    """Seconds at which ``count`` requests come: a Poisson process of ``rate`` a second, the first at 0."""
    gaps = random.Random(seed)
    times = [0.0]
    while len(times) < count:
        times.append(times[-1] + gaps.expovariate(rate))
    return times


def totals(jobs: list[Job]) -> tuple[int, int]:
    """Prompt tokens and output tokens."""
    return sum(len(job.prompt) for job in jobs), sum(job.output_tokens for job in jobs)


def find_seed(prompt_total: int, output_total: int, seeds: int) -> int:
    """The seed whose totals are nearest to these."""

    def distance(seed: int) -> int:
        prompt, output = totals(make_workload(2, seed=seed))
        return abs(prompt - prompt_total) + abs(output - output_total)

    return min(range(seeds), key=distance)


def model_folder(shape: str, folder: Path) -> Path:
    """Where ``save_model`` puts it."""
    return folder / f"drawn-{shape}"


def save_model(shape: str, folder: Path, seed: int = 0) -> Path:
    """Write a model of random weights, float32, and a tokenizer of whole words. Returns its folder; made once."""
    target = model_folder(shape, folder)
    if (target / "tokenizer.json").is_file():
        return target
    # Imported here: the parent process of a benchmark only reads the lengths above, and must stay small.
    import torch  # as said above
    from tokenizers import Tokenizer, models, pre_tokenizers  # as said above
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast  # as said above

    torch.manual_seed(seed)
    config = AutoConfig.for_model(**SHAPES[shape], bos_token_id=0, eos_token_id=0)
    AutoModelForCausalLM.from_config(config).save_pretrained(target)
    vocabulary = {f"t{token}": token for token in range(SHAPES[shape]["vocab_size"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="t0"))  # noqa: S106  # a word, not a password
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)  # type: ignore[no-untyped-call]
    tokenizer.save_pretrained(target)
    return target
