"""Everything that can be wrong with a request, found in the caller's thread before the engine sees it."""

from __future__ import annotations

import math

from shared.errors import ContextLengthError, InvalidRequestError
from worker.engine.protocol import EngineInfo, EngineRequest, SamplingParams

MAX_STOPS = 16
MAX_SEED = 2**63 - 1


def check_request(request: EngineRequest, info: EngineInfo) -> None:
    """Raises: InvalidRequestError with the ``param`` at fault, ContextLengthError."""
    check_sampling(request.sampling, info.slots)
    _check_prompt(request.prompt, info.vocab_size)
    needed = len(request.prompt) + request.sampling.max_tokens
    if needed > info.context_length:
        raise ContextLengthError(
            f"The prompt ({len(request.prompt)} tokens) and max_tokens ({request.sampling.max_tokens}) "
            f"do not fit the context of {info.context_length} tokens.",
            param="max_tokens",
        )


def check_sampling(params: SamplingParams, slots: int) -> None:
    """Raises: InvalidRequestError with the ``param`` at fault."""
    _check_int("max_tokens", params.max_tokens, 1, None)
    _check_int("top_k", params.top_k, 0, None)
    _check_int("n", params.n, 1, slots)
    if params.seed is not None:
        _check_int("seed", params.seed, 0, MAX_SEED)
    _check_real("temperature", params.temperature, 0.0, 2.0, low_excluded=False)
    _check_real("top_p", params.top_p, 0.0, 1.0, low_excluded=True)
    _check_real("repetition_penalty", params.repetition_penalty, 0.0, 10.0, low_excluded=True)
    _check_stops(params.stop)


def _check_prompt(prompt: tuple[int, ...], vocab_size: int) -> None:
    if not prompt:
        raise InvalidRequestError("The prompt is empty.", param="prompt")
    for token in prompt:
        if type(token) is not int or not 0 <= token < vocab_size:
            raise InvalidRequestError(f"Token id {token!r} is not in the vocabulary of {vocab_size}.", param="prompt")


def _check_int(name: str, value: object, low: int, high: int | None) -> None:
    # bool is an int in Python, and True is nobody's max_tokens.
    if type(value) is not int or value < low or (high is not None and value > high):
        limits = f"at least {low}" if high is None else f"from {low} to {high}"
        raise InvalidRequestError(f"{name} must be a whole number, {limits}.", param=name)


def _check_real(name: str, value: object, low: float, high: float, *, low_excluded: bool) -> None:
    bad = isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value)
    if bad or not low <= value <= high or (low_excluded and value == low):  # type: ignore[operator]  # bad ends it first
        limits = f"above {low:g} and at most {high:g}" if low_excluded else f"from {low:g} to {high:g}"
        raise InvalidRequestError(f"{name} must be a number, {limits}.", param=name)


def _check_stops(stop: object) -> None:
    # A string would pass for a tuple of its letters.
    if not isinstance(stop, tuple) or len(stop) > MAX_STOPS or not all(isinstance(text, str) and text for text in stop):
        raise InvalidRequestError(f"stop must be at most {MAX_STOPS} strings, none of them empty.", param="stop")
