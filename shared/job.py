"""The job: a frozen record, its states, and the table of transitions.

Nobody but the store changes a status; everybody else reads records. Times are integers, milliseconds since the epoch
on the clock of Redis; durations carry their unit in the name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple, Self


class JobStatus(StrEnum):
    """Where a job is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"

    @property
    def ended(self) -> bool:
        return self in ENDS


ENDS = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELED, JobStatus.EXPIRED})

TRANSITIONS: Mapping[JobStatus, frozenset[JobStatus]] = MappingProxyType(
    {
        JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.CANCELED, JobStatus.EXPIRED, JobStatus.FAILED}),
        JobStatus.RUNNING: frozenset({JobStatus.QUEUED}) | ENDS,
        JobStatus.SUCCEEDED: frozenset(),
        JobStatus.FAILED: frozenset({JobStatus.QUEUED}),
        JobStatus.CANCELED: frozenset({JobStatus.QUEUED}),
        JobStatus.EXPIRED: frozenset({JobStatus.QUEUED}),
    }
)
"""From a status to those that may follow it. Back to queued: a hand-back of a running job, or a retry of an ended one."""


class Priority(StrEnum):
    """Strict classes: a waiting high job goes before every waiting normal one."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


PRIORITY_RANK: Mapping[Priority, int] = MappingProxyType({Priority.HIGH: 0, Priority.NORMAL: 1, Priority.LOW: 2})


@dataclass(frozen=True, slots=True)
class JobRef:
    """Names a job inside the platform. An id is unique within its tenant, so another tenant's job cannot be named."""

    tenant: str
    id: str

    def __str__(self) -> str:
        return f"{self.tenant}:{self.id}"

    @classmethod
    def parse(cls, text: str) -> Self:
        tenant, _, job_id = text.partition(":")
        return cls(tenant, job_id)


class Structure(NamedTuple):
    """What an answer has to match: ``grammar`` is ``json_schema`` or ``regex``, ``text`` the schema as JSON or the expression."""

    grammar: str
    text: str


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What the client asked for, after validation and defaults. It never changes. ``webhook``: whom to tell of the events in
    ``webhook_events_filter``.

    prompt_token_ids: what the model is to read, in place of ``prompt`` (empty then), its mode and its conversation. logit_bias:
    token ids and what is added, by rising ids. logprobs: None for none, else how many alternatives at each place. echo: the
    prompt stands before each answer.
    """

    prompt: str
    mode: str
    model: str
    user_id: str | None = None
    max_length: int = 100
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    min_tokens: int = 0
    ignore_eos: bool = False
    logprobs: int | None = None
    echo: bool = False
    prompt_token_ids: tuple[int, ...] = ()
    structure: Structure | None = None
    adapter: str | None = None
    priority: Priority = Priority.NORMAL
    queue_timeout_s: int | None = None
    execution_timeout_s: int | None = None
    result_ttl_s: int | None = None
    cache: bool = True
    metadata: Mapping[str, str] = field(default_factory=dict)
    webhook: str | None = None
    webhook_events_filter: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Compact JSON; fields that hold their default are left out, so that a record stays small."""
        return json.dumps(self._given(), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        data: dict[str, Any] = json.loads(text)
        for name in ("stop", "webhook_events_filter", "stop_token_ids", "prompt_token_ids"):
            data[name] = tuple(data.get(name, ()))
        data["logit_bias"] = tuple((token, bias) for token, bias in data.get("logit_bias", ()))
        if "structure" in data:
            data["structure"] = Structure(*data["structure"])
        data["priority"] = Priority(data.get("priority", Priority.NORMAL))
        return cls(**data)

    def _given(self) -> dict[str, Any]:
        """The fields that do not hold their default, as they are; ``asdict`` would copy each in depth, which counts in a batch
        of thousands."""
        values = {name: getattr(self, name) for name in _SPEC_NAMES}
        return {name: value for name, value in values.items() if value != _SPEC_DEFAULTS.get(name, ...)}

    def fingerprint(self) -> str:
        """A digest that is equal for equal specs: tells the same payload from another under one client-chosen id. A field that
        comes with a later version changes none of those that were made before."""
        canonical = json.dumps(self._given(), ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:32]


_SPEC_NAMES = tuple(f.name for f in fields(JobSpec))
_SPEC_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {f.name: f.default for f in fields(JobSpec) if f.default is not MISSING} | {"metadata": {}}
)


@dataclass(frozen=True, slots=True)
class Choice:
    """One completion of a job: text, and why it ended (``stop``, ``length``, ``canceled``). ``logprobs``: a place for each of its
    tokens, packed (``shared.logprobs``), where they were asked for."""

    index: int
    text: str
    finish_reason: str
    logprobs: str | None = None


@dataclass(frozen=True, slots=True)
class PromptEcho:
    """A prompt of token ids that stands before the answers: its text, and a place for each of its tokens, packed."""

    text: str
    logprobs: str | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens. ``cached_tokens``: prompt tokens that did not have to be computed."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Result:
    """What a job brought. ``cached``: a copy. ``system_fingerprint``: names what the tokens depend on beside the request, as the
    engine that made them says it. ``echo``: only where it was asked for, of token ids."""

    choices: tuple[Choice, ...] = ()
    usage: Usage = Usage()
    cached: bool = False
    system_fingerprint: str = ""
    echo: PromptEcho | None = None


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job failed; ``retryable`` says whether the same job may succeed when it is run again."""

    code: str
    message: str
    retryable: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a user's conversation, and the job that made it."""

    job_id: str
    input: str
    output: str
    mode: str
    created_at: int


@dataclass(frozen=True, slots=True)
class Job:
    """The record. ``queue_position`` (1 is next) and ``eta_ms`` are set only while it waits; ``history`` holds the
    conversation up to and including this job's own turn, oldest first, as far as it is still kept. ``webhook_status``: how far
    the deliveries of its end are (``pending``, ``delivered``, ``failed``); None where nobody wants to be told."""

    ref: JobRef
    spec: JobSpec
    status: JobStatus
    key_id: str
    created_at: int
    attempt: int = 0
    owner: str | None = None
    started_at: int | None = None
    finished_at: int | None = None
    expires_at: int | None = None
    cancel_requested: bool = False
    choices: tuple[Choice, ...] = ()
    usage: Usage = Usage()
    error: JobError | None = None
    cached: bool = False
    system_fingerprint: str = ""
    echo: PromptEcho | None = None
    batch_id: str | None = None
    custom_id: str | None = None
    request_id: str | None = None
    traceparent: str | None = None
    webhook_status: str | None = None
    queue_position: int | None = None
    eta_ms: int | None = None
    history: tuple[Turn, ...] = ()

    @property
    def id(self) -> str:
        return self.ref.id

    @property
    def result(self) -> Result:
        """What it brought (so far nothing, before its end)."""
        return Result(self.choices, self.usage, self.cached, self.system_fingerprint, self.echo)

    @property
    def output(self) -> str | None:
        """The first completion's text; None where there is none (yet)."""
        return self.choices[0].text if self.choices else None

    @property
    def queue_time_ms(self) -> int | None:
        """Milliseconds from the submit to the start of the latest attempt; None before it started."""
        return None if self.started_at is None else self.started_at - self.created_at

    @property
    def execution_time_ms(self) -> int | None:
        """Milliseconds from the start of the latest attempt to the end; None while there is no end."""
        if self.started_at is None or self.finished_at is None:
            return None
        return self.finished_at - self.started_at

    def evolve(self, **changes: Any) -> Job:
        return replace(self, **changes)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended: what the worker hands to the store's ``finish``.

    ``cache_key``: set where this result may serve later jobs of the same tenant. A job with a user that succeeded adds
    its prompt and its first choice to that user's history.
    """

    status: JobStatus
    choices: tuple[Choice, ...] = ()
    usage: Usage = Usage()
    error: JobError | None = None
    cached: bool = False
    cache_key: str | None = None
    system_fingerprint: str = ""
    echo: PromptEcho | None = None

    @property
    def result(self) -> Result:
        return Result(self.choices, self.usage, self.cached, self.system_fingerprint, self.echo)

    def __post_init__(self) -> None:
        if not self.status.ended:
            raise ValueError(f"{self.status} is no end")
