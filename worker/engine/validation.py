"""Everything that can be wrong with a request, found in the caller's thread before the engine sees it."""

from __future__ import annotations

from shared.errors import ContextLengthError, InvalidRequestError
from worker.engine.protocol import EngineInfo, EngineRequest, Grammar, SamplingParams, Structure

MAX_STOPS = 16
MAX_STOP_TOKENS = 64
MAX_BIASES = 300
MAX_LOGPROBS = 20
MAX_SEED = 2**63 - 1
MAX_STRUCTURE_BYTES = 64 * 1024


def check_request(request: EngineRequest, info: EngineInfo) -> None:
    """Raises: InvalidRequestError with the ``param`` at fault, ContextLengthError."""
    check_sampling(request.sampling, info)
    _check_prompt(request.prompt, info.vocab_size)
    if request.adapter is not None and request.adapter not in info.adapters:
        names = ", ".join(info.adapters) or "none"
        raise InvalidRequestError(
            f"There is no adapter {_shown(request.adapter)}. This engine has: {names}.", param="adapter"
        )
    if request.reuse_scope is not None and not isinstance(request.reuse_scope, str):
        raise InvalidRequestError("reuse_scope must be a name, or nothing.", param="reuse_scope")
    _check_int("shared_tokens", request.shared_tokens, 0, None)
    needed = len(request.prompt) + request.sampling.max_tokens
    if needed > info.context_length:
        raise ContextLengthError(
            f"The prompt ({len(request.prompt)} tokens) and max_tokens ({_shown(request.sampling.max_tokens)}) "
            f"do not fit the context of {info.context_length} tokens.",
            param="max_tokens",
        )


def check_sampling(params: SamplingParams, info: EngineInfo) -> None:
    """Raises: InvalidRequestError with the ``param`` at fault."""
    _check_int("max_tokens", params.max_tokens, 1, None)
    _check_int("min_tokens", params.min_tokens, 0, params.max_tokens)
    _check_int("top_k", params.top_k, 0, None)
    _check_int("n", params.n, 1, info.slots)
    if params.seed is not None:
        _check_int("seed", params.seed, 0, MAX_SEED)
    for name, count in (("logprobs", params.logprobs), ("prompt_logprobs", params.prompt_logprobs)):
        if count is not None:
            _check_int(name, count, 0, MAX_LOGPROBS)
    _check_real("temperature", params.temperature, 0.0, 2.0, low_excluded=False)
    _check_real("top_p", params.top_p, 0.0, 1.0, low_excluded=True)
    _check_real("min_p", params.min_p, 0.0, 1.0, low_excluded=False)
    _check_real("repetition_penalty", params.repetition_penalty, 0.0, 10.0, low_excluded=True)
    _check_real("presence_penalty", params.presence_penalty, -2.0, 2.0, low_excluded=False)
    _check_real("frequency_penalty", params.frequency_penalty, -2.0, 2.0, low_excluded=False)
    if not isinstance(params.ignore_eos, bool):
        raise InvalidRequestError("ignore_eos must be true or false.", param="ignore_eos")
    _check_stops(params.stop)
    _check_stop_tokens(params.stop_token_ids, info.vocab_size)
    _check_bias(params.logit_bias, info.vocab_size)
    if params.structure is not None:
        _check_structure(params.structure)


def _check_prompt(prompt: tuple[int, ...], vocab_size: int) -> None:
    if not isinstance(prompt, tuple):
        raise InvalidRequestError("The prompt must be a tuple of token ids.", param="prompt")
    if not prompt:
        raise InvalidRequestError("The prompt is empty.", param="prompt")
    for token in prompt:
        _check_token("prompt", token, vocab_size)


def _check_token(name: str, token: object, vocab_size: int) -> None:
    if type(token) is not int or not 0 <= token < vocab_size:
        raise InvalidRequestError(f"Token id {_shown(token)} is not in the vocabulary of {vocab_size}.", param=name)


def _check_int(name: str, value: object, low: int, high: int | None) -> None:
    # bool is an int in Python, and True is nobody's max_tokens.
    if type(value) is not int or value < low or (high is not None and value > high):
        limits = f"at least {low}" if high is None else f"from {low} to {high}"
        raise InvalidRequestError(f"{name} must be a whole number, {limits}.", param=name)


def _check_real(name: str, value: object, low: float, high: float, *, low_excluded: bool) -> None:
    bad = isinstance(value, bool) or not isinstance(value, int | float)
    # NaN is between no two numbers. An int may be too large for a float, so it is compared as it is.
    if bad or not low <= value <= high or (low_excluded and value == low):  # type: ignore[operator]  # bad ends it first
        limits = f"above {low:g} and at most {high:g}" if low_excluded else f"from {low:g} to {high:g}"
        raise InvalidRequestError(f"{name} must be a number, {limits}.", param=name)


def _check_stops(stop: object) -> None:
    # A string would pass for a tuple of its letters.
    if not isinstance(stop, tuple) or len(stop) > MAX_STOPS or not all(isinstance(text, str) and text for text in stop):
        raise InvalidRequestError(f"stop must be at most {MAX_STOPS} strings, none of them empty.", param="stop")


def _check_stop_tokens(ids: object, vocab_size: int) -> None:
    name = "stop_token_ids"
    if not isinstance(ids, tuple) or len(ids) > MAX_STOP_TOKENS:
        raise InvalidRequestError(f"{name} must be at most {MAX_STOP_TOKENS} token ids.", param=name)
    for token in ids:
        _check_token(name, token, vocab_size)


def _check_bias(bias: object, vocab_size: int) -> None:
    name = "logit_bias"
    if not isinstance(bias, tuple) or len(bias) > MAX_BIASES or not all(_is_pair(entry) for entry in bias):
        raise InvalidRequestError(f"{name} must be at most {MAX_BIASES} pairs of a token id and a number.", param=name)
    for token, value in bias:
        _check_token(name, token, vocab_size)
        _check_real(name, value, -100.0, 100.0, low_excluded=False)
    if len({token for token, _ in bias}) < len(bias):
        raise InvalidRequestError(f"{name} names a token twice.", param=name)


def _is_pair(entry: object) -> bool:
    return isinstance(entry, tuple) and len(entry) == 2


def _check_structure(structure: object) -> None:
    """Its size; what it says is the compiler's to judge."""
    if (
        not isinstance(structure, Structure)
        or not isinstance(structure.grammar, Grammar)
        or not isinstance(structure.text, str)
        or not structure.text
    ):
        raise InvalidRequestError("structure must be a JSON schema or a regular expression.", param="structure")
    if len(structure.text.encode("utf-8", "surrogatepass")) > MAX_STRUCTURE_BYTES:
        raise InvalidRequestError(f"structure is over {MAX_STRUCTURE_BYTES // 1024} KiB.", param="structure")


def _shown(value: object) -> str:
    """What may be said back: garbage can be long, and some of it cannot even be printed."""
    short = (type(value) is int and abs(value) < 10**18) or (isinstance(value, str) and len(value) <= 64)
    return repr(value) if short else f"of type {type(value).__name__}"
