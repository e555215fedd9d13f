"""Does the slot engine compute what the model itself computes? Asked once at start, so no architecture is served on faith."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from transformers import DynamicCache, PreTrainedModel

from shared.errors import ModelLoadError
from worker.engine.cache import KeyValueShape, PackedChunk, shapes_of
from worker.engine.model_runner import ModelRunner

_TOKENS = 12
_CUT = 5  # the probe's prompt is computed in two chunks, 0..4 and 5..10, and its last token by decoding
_TOLERANCE = {torch.float32: 2e-3, torch.float16: 5e-2, torch.bfloat16: 1e-1}  # of the largest logit


Compute = Callable[[list[int], int], torch.Tensor]
"""Takes tokens and where to cut them into chunks; returns float32 ``[2, vocab]``, after the last two, the last by decoding."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What transformers computes by itself. logits: float32 ``[2, vocab]``, after the last two tokens of ``tokens``."""

    tokens: list[int]
    logits: torch.Tensor
    shapes: list[KeyValueShape]


def reference(model: PreTrainedModel, vocab_size: int, context: int) -> Reference:
    """Run the model as loaded. Raises: ModelLoadError if it does not run, or keeps something else than keys and values."""
    count = min(_TOKENS, context)
    tokens = [(7919 * at + 13) % vocab_size for at in range(count)]
    try:
        cache = DynamicCache(config=model.config)
        output = model(torch.tensor([tokens], device=model.device), past_key_values=cache, use_cache=True)
        return Reference(tokens, output.logits[0, -2:].float(), shapes_of(cache))
    except Exception as error:
        raise unsupported(model, error) from error


def check(runner: ModelRunner, model: PreTrainedModel, expected: Reference) -> None:
    """Compute the same by chunks and by decoding, which also warms both. Raises: ModelLoadError where it differs."""
    compare(partial(_by_slots, runner), model, expected)
    runner.cache.clear(0)


def compare(compute: Compute, model: PreTrainedModel, expected: Reference) -> None:
    """Raises: ModelLoadError where ``compute`` gives other logits."""
    try:
        logits = compute(expected.tokens, _CUT)
    except Exception as error:
        raise unsupported(model, error) from error
    scale = max(1.0, float(expected.logits.abs().max()))
    difference = float((logits - expected.logits).abs().max()) / scale
    if not difference <= _TOLERANCE.get(model.dtype, 1e-1):  # so that NaN is caught too
        raise unsupported(model, f"its logits differ by {difference:.1%} of the largest")


def unsupported(model: PreTrainedModel, why: object) -> ModelLoadError:
    """The error for a model whose architecture this engine cannot run."""
    reason = f"{type(why).__name__}: {why}" if isinstance(why, Exception) else why
    return ModelLoadError(
        f"{type(model).__name__} cannot be run by the slot engine ({reason}). Use ENGINE=vllm for it, or another model."
    )


def _by_slots(runner: ModelRunner, tokens: list[int], cut: int) -> torch.Tensor:
    """float32 ``[2, vocab]``."""
    last = len(tokens) - 1
    for start, end in ((0, cut), (cut, last)):
        batch = runner.packed_batch([], [PackedChunk(0, 0, end - start, start, end)])
        before_last = runner.forward(tokens[start:end], range(start, end), batch, [end - start - 1])
    after_last = runner.forward(tokens[last:], [last], runner.packed_batch([last], []), [0])
    return torch.cat((before_last, after_last))
