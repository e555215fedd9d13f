"""What an engine is: plain types in, plain types out. It knows no Redis, no Celery and no jobs.

An engine owns one model on one device. Callers on any thread ``submit`` a request and wait on the handle that they
get back; a single thread inside the engine runs the model for all of them together (continuous batching).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Message:
    """One turn for a chat template. ``role`` is ``system``, ``user`` or ``assistant``."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of prompt text. ``trusted`` text is a template of ours, where special tokens count as such;
    other text is a user's, and is encoded as plain text whatever it contains."""

    text: str
    trusted: bool = False


class Grammar(StrEnum):
    """What ``Structure.text`` is written in."""

    JSON_SCHEMA = "json_schema"
    REGEX = "regex"


@dataclass(frozen=True, slots=True)
class Structure:
    """What the whole text of an answer must match: a JSON schema (as JSON text; ``{}`` is any JSON) or a regular expression."""

    grammar: Grammar
    text: str


class FinishReason(StrEnum):
    """Why a completion ended."""

    STOP = "stop"  # end-of-text, or a stop string
    LENGTH = "length"  # max_tokens
    CANCELED = "canceled"  # the caller's cancel()


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose tokens.

    temperature: 0 is greedy; otherwise logits are divided by it. top_k: 0 is off. top_p: 1 is off. min_p: tokens less probable
    than this share of the most probable one are left out; 0 is off.
    repetition_penalty: 1 is off (Keskar et al., "CTRL", 2019, section 4.1, over prompt and output tokens, as transformers does).
    presence_penalty, frequency_penalty: subtracted from the logits of tokens in the output, once and for each time (as OpenAI
    does). logit_bias: token ids and what is added to their logits.
    seed: with it, the answer does not depend on the other requests in the batch. stop: the output ends before the first
    of these. stop_token_ids: it ends at the first of these, which is not in the text. min_tokens: before so many tokens no end
    of text and no stop token is chosen. n: completions of the same prompt; completion i of a seeded request uses seed + i.
    ignore_eos: go on to max_tokens (benchmarks).
    logprobs: None for none; otherwise how many of the most probable tokens are told at each place, beside the chosen one.
    prompt_logprobs: the same for each token of the prompt. Both are of the model's own distribution, before temperature,
    penalties, bias and structure. structure: what the text has to match.
    """

    max_tokens: int = 100
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    min_tokens: int = 0
    n: int = 1
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    structure: Structure | None = None


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """``prompt``: token ids, at least one, each in 0..vocab_size-1.

    adapter: name of a LoRA adapter that the engine was given; None is the model itself. What was computed of a prompt may be
    reused: the first ``shared_tokens`` of it (a template of ours) by everybody, the rest by requests of the same
    ``reuse_scope`` (a tenant); None by nobody.
    """

    prompt: tuple[int, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    adapter: str | None = None
    reuse_scope: str | None = None
    shared_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts. ``cached_tokens``: prompt tokens whose computation was reused."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token, its text alone (half characters are marks), and the natural logarithm of its probability."""

    token: int
    text: str
    logprob: float


@dataclass(frozen=True, slots=True)
class Place:
    """What was chosen at a place of the text, and the most probable tokens there, the best first."""

    chosen: TokenLogprob
    best: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer: its text (stop string and end-of-text not in it), and the tokens that were generated. ``places``: one for each
    token where ``logprobs`` was asked for."""

    index: int
    text: str
    finish_reason: FinishReason
    token_ids: tuple[int, ...]
    places: tuple[Place, ...] | None = None


@dataclass(frozen=True, slots=True)
class EngineResult:
    """The completions in index order, and what they cost. ``first_token_s``: seconds from ``submit`` to the first token; None
    where there was none. ``prompt_places``: one for each prompt token but the first, where ``prompt_logprobs`` was asked for."""

    completions: tuple[Completion, ...]
    usage: Usage
    first_token_s: float | None = field(default=None, compare=False)
    prompt_places: tuple[Place, ...] | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """New text of completion ``index``: whole characters only, never a part of a stop string. ``places``: of its ``token_count``
    tokens, where ``logprobs`` was asked for."""

    index: int
    text: str
    token_count: int
    places: tuple[Place, ...] = ()


OnDelta = Callable[[Delta], None]
"""Called on the engine's thread: must return at once and raise nothing."""


class Generation(Protocol):
    """The handle of one submitted request."""

    def result(self, timeout_s: float | None = None) -> EngineResult:
        """Wait for the end. A canceled request returns its partial result.

        Raises: GenerationError (this request failed), EngineStoppedError, TimeoutError (still going on after timeout_s).
        """
        ...

    def cancel(self) -> None:
        """Ask the engine to stop this request at its next step, waiting or running. Idempotent, from any thread."""
        ...

    def done(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine says of itself once started. ``context_length`` and ``token_budget`` in tokens.

    kv_tokens: how many tokens fit in its memory for keys and values, of all rows together; None where it does not say.
    kv_page: tokens in one page of that memory. adapters: names that a request may ask for. system_fingerprint: changes with
    whatever an answer depends on besides its request (``fingerprint.py``); contents: with the model's and its adapters' folders
    alone (``contents.py``).
    """

    engine: str
    model: str
    revision: str
    device: str
    dtype: str
    context_length: int
    vocab_size: int
    slots: int
    token_budget: int
    has_chat_template: bool
    kv_tokens: int | None = None
    kv_page: int = 16
    adapters: tuple[str, ...] = ()
    system_fingerprint: str = ""
    contents: str = ""


@dataclass(frozen=True, slots=True)
class TokenGaps:
    """Times between two tokens of a row. ``counts``: gaps of each bound (seconds) at most and over the bound before, and last
    those over every bound."""

    bounds_s: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    sum_s: float = 0.0


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Bytes of the device that are in use, of all that it has. On a CPU: of this process, of the machine or container."""

    used: int
    total: int


@dataclass(frozen=True, slots=True)
class Reused:
    """queries: prompt tokens of requests of which something may have been computed before; hits: those that were;
    held_bytes: keys and values that are kept for that."""

    queries: int = 0
    hits: int = 0
    held_bytes: int = 0


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot for metrics and for the heartbeat. ``steps`` only ever grows while the engine is sane and busy.

    prompt_tokens: computed; those of a row that begins again after a preemption count again. step_rows: how many steps had
    0, 1, 2, … rows in them. kv_cache_usage: share of the room for keys and values that rows hold, 0 to 1. preemptions: how
    often a request had to leave the batch because memory was short.
    """

    running: int
    waiting: int
    steps: int
    prompt_tokens: int
    generated_tokens: int
    step_rows: tuple[int, ...] = ()
    token_gaps: TokenGaps = TokenGaps()
    kv_cache_usage: float = 0.0
    preemptions: int = 0
    reused: Reused = Reused()


class Engine(Protocol):
    """One model on one device. ``start`` first; then everything but ``shutdown`` may be called from any thread."""

    @property
    def info(self) -> EngineInfo: ...

    def start(self) -> None:
        """Load, warm, and start the loop. Raises ModelLoadError with a sentence that says what to do."""
        ...

    def healthy(self) -> bool:
        """True while the loop lives and its state is sound."""
        ...

    def encode(self, pieces: Sequence[Piece]) -> tuple[int, ...]:
        """Token ids of the pieces, one after the other. Adds the model's own start token where its tokenizer would."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, each in the vocabulary; control tokens have none."""
        ...

    def chat_pieces(self, messages: Sequence[Message]) -> list[Piece] | None:
        """The messages in the model's chat template, ready for the assistant's answer; None where it has no template.
        The contents of user and assistant messages stay untrusted pieces; system messages are trusted."""
        ...

    def tokenizer_json(self) -> bytes | None:
        """The tokenizer in Hugging Face's ``tokenizer.json`` form, for those who only count; None where there is none."""
        ...

    def submit(self, request: EngineRequest, on_delta: OnDelta | None = None) -> Generation:
        """Queue a request. Everything about it is validated here, in the caller's thread.

        Raises: InvalidRequestError (a parameter out of range, a token id outside the vocabulary), ContextLengthError
        (prompt + max_tokens over the context), EngineStoppedError.
        """
        ...

    def stats(self) -> EngineStats:
        """Counts of the loop. Never waits for the device."""
        ...

    def device_memory(self) -> DeviceMemory | None:
        """Asks the device: where that hangs, so does this. None where it does not say."""
        ...

    def shutdown(self, drain_s: float = 0.0) -> None:
        """Refuse new requests, give running ones ``drain_s`` seconds, fail the rest with EngineStoppedError, end the loop."""
        ...
