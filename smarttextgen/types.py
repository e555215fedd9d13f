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


class GenerateOptions(TypedDict, total=False):
    """What may go with a prompt; None counts as not given."""

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
    priority: Priority | None
    queue_timeout_s: int | None
    execution_timeout_s: int | None
    result_ttl_s: int | None
    cache: bool | None
    metadata: Mapping[str, Any] | None
    webhook: str | None
    webhook_events_filter: list[str] | None


class BatchRequest(GenerateOptions, total=False):
    """One request of a batch."""

    custom_id: str
    prompt: str


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
class Choice:
    """One of the ``n`` answers; ``finish_reason`` is stop or length."""

    index: int = 0
    text: str = ""
    finish_reason: str | None = None


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
    """A job. ``output`` is the first choice's text; ``eta_seconds`` and ``queue_position`` are there while it waits."""

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
    output: str | None = None
    choices: tuple[Choice, ...] = ()
    history: tuple[Turn, ...] = ()
    usage: Usage | None = None
    error: JobError | None = None
    cached: bool = False
    cancel_requested: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)
    batch_id: str | None = None
    custom_id: str | None = None
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
    """A batch. ``counts`` is by status; lists run in the order of the request.

    ``inputs``, ``outputs`` and ``history`` (a conversation for each job) are there once it is completed.
    """

    id: str
    status: str = "in_progress"
    counts: Mapping[str, int] = field(default_factory=dict)
    created_at: str | None = None
    jobs: tuple[BatchJob, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str | None, ...] = ()
    history: tuple[tuple[Turn, ...], ...] = ()
    urls: Mapping[str, str] = field(default_factory=dict)

    @property
    def completed(self) -> bool:
        """Whether every job of it has ended."""
        return self.status == "completed"


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
    queue_length: int | None = None
