"""The records that the service answers with. All frozen; times are ISO 8601 UTC texts as sent.

Every field has a default except the ids: an older service may send less, a newer one more (which is dropped).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypedDict, TypeVar

T = TypeVar("T")

JobStatus = Literal["queued", "running", "succeeded", "failed", "canceled", "expired"]
Priority = Literal["low", "normal", "high"]
ENDED: frozenset[str] = frozenset({"succeeded", "failed", "canceled", "expired"})
BATCH_ENDED: frozenset[str] = frozenset({"completed", "canceled"})
WebhookEventType = Literal[
    "job.started", "job.output", "job.succeeded", "job.failed", "job.canceled", "job.expired", "batch.completed"
]


class GenerateOptions(TypedDict, total=False):
    """What may go with a prompt; None counts as not given. ``response_format`` is OpenAI's: {"type": "json_schema",
    "json_schema": {"schema": …}}, {"type": "json_object"}, and {"type": "regex", "regex": …}."""

    user_id: str | None
    mode: str | None
    model: str | None
    max_length: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    repetition_penalty: float | None
    seed: int | None
    stop: list[str] | None
    n: int | None
    min_p: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    logit_bias: Mapping[int, float] | Mapping[str, float] | None
    stop_token_ids: list[int] | None
    min_tokens: int | None
    ignore_eos: bool | None
    logprobs: int | None
    echo: bool | None
    response_format: Mapping[str, Any] | None
    adapter: str | None
    priority: Priority | None
    queue_timeout_s: int | None
    execution_timeout_s: int | None
    result_ttl_s: int | None
    cache: bool | None
    metadata: Mapping[str, Any] | None
    webhook: str | None
    webhook_events_filter: list[str] | None


class BatchRequest(GenerateOptions, total=False):
    """One request of a batch. ``prompt``: text, or token ids."""

    custom_id: str
    prompt: str | list[int]


@dataclass(frozen=True)
class Usage:
    """Tokens of a job."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True)
class JobError:
    """Why a job failed; ``retryable`` says whether the same job may succeed later."""

    code: str = ""
    message: str = ""
    retryable: bool = False


@dataclass(frozen=True)
class Alternative:
    """A token that could have stood in a place; ``logprob`` is the natural logarithm of its probability."""

    token_id: int = 0
    token: str = ""
    logprob: float = 0.0


@dataclass(frozen=True)
class TokenLogprob:
    """A token of a text. ``logprob`` is None for the first token of a prompt, ``top_logprobs`` are the likeliest in its place."""

    token_id: int = 0
    token: str = ""
    logprob: float | None = None
    top_logprobs: tuple[Alternative, ...] = ()


@dataclass(frozen=True)
class Logprobs:
    """The tokens of a text, in order."""

    content: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Choice:
    """One of the ``n`` answers; ``finish_reason`` is stop or length. ``logprobs``: where they were asked for, and not in lists,
    webhooks and the end of a stream."""

    index: int = 0
    text: str = ""
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


@dataclass(frozen=True)
class Turn:
    """One exchange of a conversation; the job that made it is named where the conversation itself was asked for."""

    input: str = ""
    output: str = ""
    mode: str | None = None
    job_id: str | None = None
    created_at: str | None = None


@dataclass(frozen=True)
class JobUrls:
    """Where to go on with a job."""

    self: str | None = None
    stream: str | None = None
    cancel: str | None = None


@dataclass(frozen=True)
class Job:
    """A job. ``output`` is the first choice's text; ``eta_seconds`` and ``queue_position`` are there while it waits. ``input`` is
    empty for a prompt of token ids, which are in ``input_token_ids``."""

    id: str
    status: str = "queued"
    mode: str | None = None
    model: str | None = None
    user_id: str | None = None
    priority: str | None = None
    queue_position: int | None = None
    eta_seconds: float | None = None
    attempt: int | None = None
    created_at: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    expires_at: str | None = None
    queue_time_ms: float | None = None
    execution_time_ms: float | None = None
    input: str | None = None
    input_token_ids: tuple[int, ...] = ()
    output: str | None = None
    choices: tuple[Choice, ...] = ()
    history: tuple[Turn, ...] = ()
    usage: Usage | None = None
    error: JobError | None = None
    cached: bool = False
    system_fingerprint: str | None = None
    cancel_requested: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)
    batch_id: str | None = None
    custom_id: str | None = None
    webhook_status: str | None = None
    urls: JobUrls | None = None

    @property
    def ended(self) -> bool:
        """Whether it has reached one of the four ends."""
        return self.status in ENDED

    @property
    def succeeded(self) -> bool:
        return self.status == "succeeded"


@dataclass(frozen=True)
class BatchJob:
    """A job of a batch, in short."""

    id: str
    custom_id: str | None = None
    status: str = "queued"


@dataclass(frozen=True)
class Batch:
    """A batch. ``counts`` is by status, with their ``total``; lists run in the order of the request.

    ``jobs`` is there for batches of up to 500 jobs; so are ``inputs``, ``outputs`` and ``history`` (a conversation for
    each job) once all have ended. Results of any batch, as they come: ``client.batches.results``.
    """

    id: str
    status: str = "in_progress"
    counts: Mapping[str, int] = field(default_factory=dict)
    created_at: str | None = None
    completed_at: str | None = None
    cancel_requested: bool = False
    jobs: tuple[BatchJob, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str | None, ...] = ()
    history: tuple[tuple[Turn, ...], ...] = ()
    urls: Mapping[str, str] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether every job of it has ended: it is completed, or canceled."""
        return self.status in BATCH_ENDED


@dataclass(frozen=True)
class BatchResult:
    """How a job of a batch ended. ``index`` is its place in the request; ``cursor`` leads to the results after it."""

    id: str
    index: int = 0
    custom_id: str | None = None
    status: str = "succeeded"
    output: str | None = None
    choices: tuple[Choice, ...] = ()
    usage: Usage | None = None
    error: JobError | None = None
    cached: bool = False
    system_fingerprint: str | None = None
    finished_at: str | None = None
    cursor: str | None = None

    @property
    def succeeded(self) -> bool:
        return self.status == "succeeded"


@dataclass(frozen=True)
class ResultPage:
    """Some results of a batch, in the order in which they ended; ``ended`` once there will be no more after them."""

    data: tuple[BatchResult, ...] = ()
    next_cursor: str | None = None
    ended: bool = False


@dataclass(frozen=True)
class Page(Generic[T]):
    """A part of a list, newest first; ``next_cursor`` leads to the next part where ``has_more``."""

    data: tuple[T, ...] = ()
    next_cursor: str | None = None
    has_more: bool = False


@dataclass(frozen=True)
class Mode:
    """A way of answering."""

    name: str
    description: str = ""


@dataclass(frozen=True)
class Model:
    """A model that the service runs; ``status`` is ready while a worker serves it. What nobody knows yet is None."""

    name: str
    status: str | None = None
    default: bool = False
    workers: int | None = None
    queue_length: int | None = None
    context_length: int | None = None
    revision: str | None = None
    engine: str | None = None
    device: str | None = None
    dtype: str | None = None
    vocab_size: int | None = None
    adapters: tuple[str, ...] = ()


@dataclass(frozen=True)
class ApiKey:
    """An API key. ``key`` itself is there only in the answer that made it."""

    id: str
    key: str | None = None
    tenant: str | None = None
    name: str | None = None
    scopes: tuple[str, ...] = ()
    weight: int | None = None
    requests_per_minute: int | None = None
    tokens_per_day: int | None = None
    max_queued: int | None = None
    prefix: str | None = None
    created_at: str | None = None


@dataclass(frozen=True)
class WebhookEndpoint:
    """Where the service reports to. ``secret`` is there only in the answer that made it.

    The endpoint ``default`` signs for the webhooks of single jobs and batches; it has no url.
    """

    id: str
    url: str | None = None
    events: tuple[str, ...] = ()
    description: str | None = None
    status: str = "enabled"
    disabled_reason: str | None = None
    created_at: str | None = None
    secret: str | None = None


@dataclass(frozen=True)
class Delivery:
    """A message to an endpoint: ``status`` is pending, delivered or failed; ``message_id`` its ``webhook-id``."""

    id: str
    message_id: str | None = None
    endpoint_id: str | None = None
    type: str | None = None
    job_id: str | None = None
    batch_id: str | None = None
    url: str | None = None
    status: str = "pending"
    attempts: int = 0
    response_status: int | None = None
    error: str | None = None
    created_at: str | None = None
    next_attempt_at: str | None = None
    delivered_at: str | None = None


@dataclass(frozen=True)
class WebhookEvent:
    """A delivery whose signature was right.

    ``id`` is the message's: a delivery that is tried again has the same, so what was handled once can be told.
    ``job`` is there for ``job.*``, ``batch`` for ``batch.completed``; ``data`` is what was sent, whole.
    """

    id: str
    type: str
    timestamp: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    job: Job | None = None
    batch: Batch | None = None


@dataclass(frozen=True)
class Health:
    """What /health says. ``degraded``: no worker is ready; ``down``: Redis is away; ``workers`` are the ready ones."""

    status: str
    model: str | None = None
    model_status: str | None = None
    redis_status: str | None = None
    cache_status: str | None = None
    api_key_status: str | None = None
    environment: str | None = None
    workers: int | None = None
    couriers: int | None = None
    queue_length: int | None = None
