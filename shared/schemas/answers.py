"""What the API answers."""

from __future__ import annotations

from typing import Generic, Literal, TypeVar

from pydantic import ConfigDict, Field

from shared.schemas.text import Answer, Date, Timestamp

T = TypeVar("T", bound=Answer)

WebhookStatus = Literal["pending", "delivered", "failed"]
Status = Literal["queued", "running", "succeeded", "failed", "canceled", "expired"]


class ErrorDetail(Answer):
    """What went wrong. ``code`` is stable; ``param`` names the field or parameter, where it is about one."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(Answer):
    """Every error of every route."""

    error: ErrorDetail


class Links(Answer):
    """Where to go on."""

    self_: str = Field(alias="self", serialization_alias="self")


class JobLinks(Links):
    """Where to go on with a job."""

    stream: str
    cancel: str


class Accepted(Answer):
    """A job that was taken in. ``queue_position`` 1 is next; both are null once it does not wait any more."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "job_0b54d2f0c2a94a4db60a5fd41c3eae2d",
                    "status": "queued",
                    "queue_position": 1,
                    "eta_seconds": 0.8,
                    "created_at": "2026-11-22T12:00:00.000Z",
                    "urls": {
                        "self": "/api/jobs/job_0b54d2f0c2a94a4db60a5fd41c3eae2d",
                        "stream": "/api/jobs/job_0b54d2f0c2a94a4db60a5fd41c3eae2d/stream",
                        "cancel": "/api/jobs/job_0b54d2f0c2a94a4db60a5fd41c3eae2d/cancel",
                    },
                }
            ]
        }
    )

    id: str
    status: Status
    queue_position: int | None
    eta_seconds: float | None
    created_at: Timestamp
    urls: JobLinks


class TurnView(Answer):
    """One turn of a conversation."""

    input: str
    output: str


class AlternativeView(Answer):
    """A token that could have stood there. ``token``: its text alone, with marks for halves of a character. ``logprob``: the
    natural logarithm of its probability, -9999 for none at all."""

    token_id: int
    token: str
    logprob: float


class TokenView(Answer):
    """A token of a text, and the most probable ones in its place, the best first. The first token of a prompt has no
    ``logprob``."""

    token_id: int
    token: str
    logprob: float | None
    top_logprobs: list[AlternativeView]


class LogprobsView(Answer):
    """The tokens of a text, in order; with ``echo`` those of the prompt first, where that was given as token ids. They are of
    the model's own distribution, before temperature, penalties, bias and structure."""

    content: list[TokenView]


class ChoiceView(Answer):
    """One completion, and why it ended. ``text`` begins with the prompt where ``echo`` was asked for. ``logprobs``: null unless
    asked for, and in lists, webhooks and at the end of a stream."""

    index: int
    text: str
    finish_reason: str
    logprobs: LogprobsView | None


class UsageView(Answer):
    """Tokens. ``cached_tokens``: prompt tokens that did not have to be computed."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int


class FailureView(Answer):
    """Why a job failed, and whether the same job may succeed when it is run again."""

    code: str
    message: str
    retryable: bool


class JobView(Answer):
    """A job in any state. ``output`` is the first choice's text; ``usage`` is null until an end. ``input`` is empty where the
    prompt was token ids, which are in ``input_token_ids``. ``system_fingerprint`` names what the answer depends on beside the
    request (model, engine, device, settings); null before an end. ``webhook_status``: how far the webhooks of its end are; null
    where there are none."""

    id: str
    status: Status
    mode: str
    model: str
    user_id: str | None
    priority: Literal["low", "normal", "high"]
    queue_position: int | None
    eta_seconds: float | None
    attempt: int
    created_at: Timestamp
    started_at: Timestamp | None
    finished_at: Timestamp | None
    expires_at: Timestamp | None
    queue_time_ms: int | None
    execution_time_ms: int | None
    input: str
    input_token_ids: list[int] | None
    output: str | None
    choices: list[ChoiceView]
    history: list[TurnView]
    usage: UsageView | None
    error: FailureView | None
    cached: bool
    system_fingerprint: str | None
    cancel_requested: bool
    metadata: dict[str, str]
    batch_id: str | None
    custom_id: str | None
    webhook_status: WebhookStatus | None
    urls: JobLinks


class QueuedEvent(Answer):
    """The first event of a job's stream: its place, as it is when the stream is opened; null once it does not wait any
    more."""

    queue_position: int | None
    eta_seconds: float | None


class Counts(Answer):
    """Jobs of a batch by status; ``total`` is their sum. Deleted jobs do not count any more."""

    total: int
    queued: int
    running: int
    succeeded: int
    failed: int
    canceled: int
    expired: int


BatchStatus = Literal["in_progress", "canceling", "completed", "canceled"]


class BatchLinks(Links):
    """Where to go on with a batch."""

    results: str
    cancel: str


class BatchAccepted(Answer):
    """A batch that was taken in. ``canceled``: all of it has ended, after a cancel was requested."""

    id: str
    object: Literal["batch"] = "batch"
    status: BatchStatus
    counts: Counts
    created_at: Timestamp
    urls: BatchLinks


class BatchSummary(BatchAccepted):
    """A batch without its jobs."""

    completed_at: Timestamp | None
    cancel_requested: bool


class BatchJob(Answer):
    """A job of a batch, in short."""

    id: str
    custom_id: str | None
    status: Status
    urls: JobLinks


class BatchView(BatchSummary):
    """A batch. The lists run in the order of the request, and are null for a batch of more than 500 jobs: read its results.
    Once all has ended, ``inputs``, ``outputs`` (null where a job has none) and ``history`` (a conversation for each job) are
    there too."""

    jobs: list[BatchJob] | None
    inputs: list[str] | None
    outputs: list[str | None] | None
    history: list[list[TurnView]] | None


class BatchResultView(Answer):
    """The end of one job of a batch, a line of its results. ``index``: its place in the request, from 0. ``cursor``: where
    to go on after it."""

    custom_id: str | None
    id: str
    index: int
    status: Literal["succeeded", "failed", "canceled", "expired"]
    output: str | None
    choices: list[ChoiceView]
    usage: UsageView
    error: FailureView | None
    cached: bool
    system_fingerprint: str | None
    finished_at: Timestamp
    cursor: str


class Page(Answer, Generic[T]):
    """A page of a list, newest first."""

    data: list[T]
    next_cursor: str | None
    has_more: bool


class HistoryTurn(TurnView):
    """One turn, and the job that made it."""

    mode: str
    job_id: str
    created_at: Timestamp


class HistoryView(Answer):
    """A user's conversation, oldest turn first."""

    user_id: str
    history: list[HistoryTurn]


class ModeView(Answer):
    """A prompt mode."""

    name: str
    description: str


class ModelView(Answer):
    """A model. ``ready``: a worker serves it now. ``adapters``: LoRA adapters that a job may name. What nobody has announced
    yet is null."""

    name: str
    default: bool
    status: Literal["ready", "unavailable"]
    workers: int
    queue_length: int
    context_length: int | None
    revision: str | None
    engine: str | None
    device: str | None
    dtype: str | None
    vocab_size: int | None
    adapters: list[str]


class KeyView(Answer):
    """An API key, without its secret. ``prefix`` is the secret's start, to recognise it by. A limit of null is the
    deployment's."""

    id: str
    tenant: str
    name: str
    scopes: list[str]
    prefix: str
    created_at: Timestamp
    weight: int
    requests_per_minute: int | None
    tokens_per_day: int | None
    max_queued: int | None


class NewKeyView(KeyView):
    """A key with its secret, which is shown this once."""

    key: str


class EtaErrorView(Answer):
    """How far off ``eta_seconds`` was for jobs that have started. ``within``: seconds → how many were off by that at most."""

    jobs: int
    mean_seconds: float
    within: dict[str, int]


class QueueView(Answer):
    """A model's queue. ``length``: jobs that wait. ``workers``, ``slots``: of the ready ones. ``eta_error`` is null before the
    first job has started."""

    model: str
    length: int
    paused: bool
    workers: int
    slots: int
    eta_error: EtaErrorView | None


class PurgedView(Answer):
    """How many waiting jobs a purge canceled."""

    model: str
    canceled: int


class WorkerView(Answer):
    """A worker with a live lease. ``jobs``: how many it runs now."""

    id: str
    model: str
    state: Literal["ready", "draining"]
    slots: int
    jobs: int
    host: str
    pid: int
    engine: str
    device: str


class RequeueLinks(Answer):
    """Where to go on with a dead letter."""

    requeue: str


class DeadLetterView(Answer):
    """A job whose worker died each time that it ran. Its prompt is its tenant's and is not shown."""

    tenant: str
    id: str
    model: str
    convicted_at: Timestamp
    created_at: Timestamp
    attempt: int
    error: FailureView | None
    urls: RequeueLinks


class UsageRowView(Answer):
    """What was used. ``day``, ``key_id`` and ``model`` are null where it is not grouped by them. ``cached_tokens``: of the prompt
    tokens, those that did not have to be computed."""

    day: Date | None
    key_id: str | None
    model: str | None
    jobs: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int


class UsageReport(Answer):
    """What the tenant's jobs used, from the first to the last day (UTC)."""

    first_day: Date
    last_day: Date
    data: list[UsageRowView]


class Health(Answer):
    """How the service is. ``down``: Redis is away. ``degraded``: no worker is ready."""

    status: Literal["ok", "degraded", "down"]
    model: str
    model_status: Literal["ready", "unavailable", "unknown"]
    redis_status: Literal["connected", "unavailable"]
    cache_status: Literal["enabled", "disabled", "unavailable"]
    api_key_status: Literal["required"]
    environment: str
    workers: int
    couriers: int
    queue_length: int


class Alive(Answer):
    """The process answers."""

    status: Literal["ok"] = "ok"
