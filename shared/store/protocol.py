"""The store's protocol: the operations on a job, each atomic and each safe to repeat.

``RedisStore`` is the real one, ``MemoryStore`` ships for tests and for users' tests; one contract suite
(``tests/store``) runs over both. Every operation may raise StoreUnavailableError (Redis is away: nothing is known to
have happened, and the same call may be repeated).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from shared.job import Job, JobRef, JobSpec, JobStatus, Outcome, Result, Turn
from shared.store.batches import BatchStore
from shared.store.events import JobLog, Said, Told
from shared.store.figures import Figures

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Hint:
    """A waiting job that its model's workers are to be told of. ``again``: its first hint seems lost, so this one goes
    ahead of others."""

    ref: JobRef
    model: str
    again: bool = False


@dataclass(frozen=True, slots=True)
class Idempotency:
    """One ``Idempotency-Key`` of one tenant on one route. ``scope`` names tenant, method, path and key;
    ``fingerprint`` the body. With ``in_progress_s``, the first request counts as still in its handler for so long, or
    until ``complete_idempotent``."""

    scope: str
    fingerprint: str
    ttl_s: int
    in_progress_s: int = 0


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A fixed window: at most ``limit`` submits a ``window_s`` under ``key``. ``cost`` is what this submit counts."""

    key: str
    limit: int
    window_s: int
    cost: int = 1


@dataclass(frozen=True, slots=True)
class RateState:
    """A window after it was charged: what is left of it, and seconds until it starts anew."""

    limit: int
    remaining: int
    reset_s: int


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to submit. ``id`` is unique within the tenant."""

    id: str
    spec: JobSpec
    custom_id: str | None = None


@dataclass(frozen=True, slots=True)
class Submission:
    """Jobs that are admitted together or not at all.

    key_digest: the stored key's digest, where a revoked key must be refused by the same script. ``key_id`` counts the
    queue cap. ``chosen_id``: the client chose the id (PUT), so that an existing job with
    the same payload is the answer and not a mistake.
    """

    tenant: str
    key_id: str
    jobs: tuple[NewJob, ...]
    request_id: str | None = None
    traceparent: str | None = None
    key_digest: str | None = None
    idempotency: Idempotency | None = None
    rate_limit: RateLimit | None = None
    max_queued: int | None = None
    max_waiting: int | None = None
    tokens_per_day: int | None = None
    weight: int = 1
    chosen_id: bool = False


@dataclass(frozen=True, slots=True)
class Receipt:
    """The answer to a submit. ``hints`` are to be sent now; they may name other tenants' jobs, and not this one's.

    ids, positions and etas_ms are in the order of the submission. created: False where nothing new was made (a replayed
    Idempotency-Key, or the same payload under the same chosen id). response: the stored answer of a replay, where the
    first request stored one with ``complete_idempotent``. rate, tokens: what is left of the key's requests and of its tokens
    of the day, where it has such a limit.
    """

    ids: tuple[str, ...]
    positions: tuple[int, ...]
    etas_ms: tuple[int, ...]
    created_at: int
    created: bool = True
    replayed: bool = False
    response: str | None = None
    rate: RateState | None = None
    tokens: RateState | None = None
    hints: tuple[Hint, ...] = ()


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that this worker now runs, with the conversation it must see (oldest turn first)."""

    job: Job
    history: tuple[Turn, ...]


class Finished(StrEnum):
    """What became of a finish."""

    ACCEPTED = "accepted"  # also when the same attempt says the same end again
    FENCED = "fenced"  # another attempt owns the job, it ended otherwise, or it was deleted: this result is dropped


class Stop(StrEnum):
    """Why a worker must stop a job that it runs."""

    CANCELED = "canceled"
    EXPIRED = "expired"
    LOST = "lost"  # deleted, or not its own any more: whatever it says will be fenced


@dataclass(frozen=True, slots=True)
class Orders:
    """What a worker hears with its beat: which of its running jobs it must stop and why, and whether it is to drain."""

    stops: dict[JobRef, Stop]
    drain: bool = False


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What a pass put right. ``reaped``: workers whose lease ran out; their jobs wait again, or were convicted. ``held``: none is
    reaped yet, since after an outage each has a lease to show that it lives."""

    hints: tuple[Hint, ...]
    reaped: tuple[str, ...]
    held: bool


@dataclass(frozen=True, slots=True)
class Patience:
    """Times of the reconciler. ``grace_s``: how long a hint may be on its way. ``age_s``: after so long in a class a job
    goes up one. ``most_crashes``: a job whose worker died so often is convicted. ``pause_s``: between two passes, whoever makes
    them."""

    grace_s: float = 2.0
    age_s: float = 300.0
    most_crashes: int = 4
    pause_s: float = 0.5


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """Where a step of a sweep ended: at a job's sequence number in a tenant's list."""

    tenant: str
    sequence: int


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs a list shows; None is any. Times in milliseconds since the epoch, exclusive."""

    status: JobStatus | None = None
    mode: str | None = None
    model: str | None = None
    user_id: str | None = None
    created_after: int | None = None
    created_before: int | None = None


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A page of a list, newest first. ``next_cursor`` is None on the last page."""

    data: tuple[T, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model as its workers announce it. ``mode_tokens``: mode/language → tokens of its template around an empty
    prompt; ``tokenizer_digest`` names the tokenizer that ``tokenizer()`` returns. ``vocab_size``: token ids are below it.
    ``adapters``: names of the LoRA adapters that its jobs may ask for."""

    name: str
    revision: str
    engine: str
    device: str
    dtype: str
    context_length: int
    tokenizer_digest: str | None = None
    mode_tokens: dict[str, int] = field(default_factory=dict)
    vocab_size: int | None = None
    adapters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker as it announces itself. ``state`` is ``ready`` or ``draining``; ``slots`` the jobs it runs at a time."""

    id: str
    model: ModelInfo
    slots: int
    state: str = "ready"
    host: str = ""
    pid: int = 0


@dataclass(frozen=True, slots=True)
class EtaError:
    """How far off ETAs were: of ``count`` jobs that started, by ``sum_ms`` in all. ``within``: upper bound in milliseconds →
    jobs that were off by that at most and by more than the bound before; the rest was off by more than the last bound."""

    count: int
    sum_ms: int
    within: dict[int, int]


@dataclass(frozen=True, slots=True)
class Fleet:
    """Who is there: the workers with a live lease, the models announced lately (name → info), jobs waiting by model, the
    paused models, jobs that run by worker, by model how far off the ETAs were, and how many couriers there are."""

    workers: tuple[WorkerInfo, ...]
    models: dict[str, ModelInfo]
    queue_lengths: dict[str, int]
    paused: frozenset[str] = frozenset()
    jobs: dict[str, int] = field(default_factory=dict)
    eta_errors: dict[str, EtaError] = field(default_factory=dict)
    couriers: int = 0


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A job that was convicted when it ended: its worker died each time that it ran."""

    job: Job


@dataclass(frozen=True, slots=True)
class UsageRow:
    """What one key used of one model on one day (UTC). ``cached_tokens``: of the prompts', those that were not computed."""

    day: date
    key_id: str
    model: str
    jobs: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


class JobStore(BatchStore, Protocol):
    """Operations on jobs. A ``tenant`` argument scopes the call: another tenant's objects do not exist for it."""

    # --- the client's side
    def submit(self, submission: Submission) -> Receipt:
        """Admit jobs; one round trip.

        Raises: AuthenticationError (the key was revoked), IdempotencyKeyReusedError, IdempotencyInProgressError,
        JobExistsError, GoneError, RateLimitedError, QueueLimitError, QueueFullError. Then nothing was written but the rate count.
        """
        ...

    def complete_idempotent(self, scope: str, response: str) -> None:
        """Keep the answer of the first request; later ones replay it."""
        ...

    def get(self, ref: JobRef) -> Job:
        """Raises: NotFoundError; GoneError after its retention."""
        ...

    def log(self, ref: JobRef, after: int, most: int) -> JobLog:
        """A job with at most so many of its logged events, those after a number. Raises: NotFoundError, GoneError."""
        ...

    def latest(self, refs: Sequence[JobRef]) -> list[int]:
        """The number of each job's last event; 0 where there is no such job (any more)."""
        ...

    def list_jobs(self, tenant: str, where: JobFilter, cursor: str | None, limit: int) -> Page[Job]:
        """Newest first. A page may be short of ``limit`` and still have a cursor. Raises: InvalidCursorError."""
        ...

    def cancel(self, ref: JobRef) -> Job:
        """A waiting job is canceled at once; a running one is marked, and its worker stops it. Again: the same answer.

        Raises: NotFoundError, GoneError, JobAlreadyFinishedError (it ended otherwise).
        """
        ...

    def retry(self, ref: JobRef) -> tuple[Job, tuple[Hint, ...]]:
        """An ended job that did not succeed waits again, under the same id.

        Raises: NotFoundError, GoneError, JobNotRetryableError.
        """
        ...

    def delete(self, ref: JobRef) -> None:
        """Everything of the job is gone, its cache entry and its turn of the history too; a running one is also
        stopped. Raises: NotFoundError."""
        ...

    def history(self, tenant: str, user_id: str) -> tuple[Turn, ...]:
        """The conversation, oldest turn first."""
        ...

    def delete_history(self, tenant: str, user_id: str) -> int:
        """Forget it; returns how many turns there were."""
        ...

    # --- the worker's side
    def claim(self, ref: JobRef, worker: str, token: str) -> Claim | None:
        """Make a waiting job this worker's; None where it is not waiting any more, where the worker has no lease, or where
        the job was aboard crashes and this worker runs its share of such. The same token again returns the same claim, so
        that a command whose answer was lost can be repeated."""
        ...

    def progress(self, worker: str, said: Sequence[Said], /) -> list[Told]:
        """Put what this worker's running attempts said into their jobs' logs. Saying it again adds nothing. Returns
        what came of each."""
        ...

    def finish(
        self, ref: JobRef, worker: str, attempt: int, outcome: Outcome, said: Said | None = None
    ) -> tuple[Finished, tuple[Hint, ...]]:
        """Write the end, the history turn, the cache entry and the usage, all in one, if this attempt owns the job.
        ``said``: what is not known to be in the log yet; it goes there first, so that the end is the last event."""
        ...

    def release(self, ref: JobRef, worker: str, attempt: int) -> tuple[Hint, ...] | None:
        """Hand a running job back to its place in the queue. None where this attempt does not own it. No crash is
        counted."""
        ...

    def cached(self, tenant: str, cache_key: str) -> Result | None:
        """A result of this tenant that must be the same, or None."""
        ...

    def beat(self, worker: WorkerInfo, running: Sequence[tuple[JobRef, int]]) -> Orders:
        """Renew the worker's lease; ``running``: its running jobs with their attempts."""
        ...

    def drain_worker(self, worker: str) -> None:
        """Tell a worker to drain: it takes nothing new, ends what runs (or hands it back) and exits. Raises:
        NotFoundError."""
        ...

    def listen_for_stops(self, worker: str, stop: Callable[[JobRef], None], ended: threading.Event) -> None:
        """Call ``stop`` with each running job of this worker that is canceled, as it happens, until ``ended`` is set. What
        is told while nobody listens is lost; the next beat says it again. Raises: StoreUnavailableError."""
        ...

    def depart(self, worker: str) -> tuple[Hint, ...]:
        """Take the worker off the list (a clean exit); what it still ran waits again."""
        ...

    def reconcile(self, patience: Patience) -> Reconciled:
        """Put right what nobody else will: gone workers, lost hints, deadlines, age, room in the window. Anybody may call
        it at any time; passes do not overlap."""
        ...

    def sweep(self, after: SweepPoint | None, most: int) -> tuple[SweepPoint | None, int]:
        """Take out of lists what is not kept any more: one step, which looks at ``most`` of their members. Returns where the
        next step goes on (None: the round is over), and how many were taken out. Anybody may call it at any time."""
        ...

    def pause(self, model: str) -> None:
        """Send no more of this model's jobs to workers; submits go on."""
        ...

    def resume(self, model: str) -> tuple[Hint, ...]:
        """The opposite."""
        ...

    def purge(self, model: str) -> int:
        """Cancel every job of this model that waits; returns how many."""
        ...

    def dead_letters(self, cursor: str | None, limit: int) -> Page[DeadLetter]:
        """Convicted jobs of all tenants that are still kept, newest first. Raises: InvalidCursorError."""
        ...

    def requeue(self, ref: JobRef) -> tuple[Job, tuple[Hint, ...]]:
        """A convicted job waits again; its crashes are forgotten. Raises: NotFoundError (it is not a dead letter)."""
        ...

    def usage(self, tenant: str, first: date, last: date) -> tuple[UsageRow, ...]:
        """What a tenant's jobs used from the first to the last day (UTC), oldest day first. Kept for 90 days. What ran
        counts, also where it was canceled or expired; what came from the cache counts as a job without tokens."""
        ...

    def put_tokenizer(self, digest: str, content: bytes) -> None: ...

    def tokenizer(self, digest: str) -> bytes | None:
        """``tokenizer.json`` of an announced model, for those who only count tokens."""
        ...

    # --- everybody's
    def fleet(self) -> Fleet: ...

    def figures(self, tenants: Sequence[str] = ()) -> Figures:
        """What metrics tell: of the queues and the workers, and of these tenants. Costs by queues, not by jobs."""
        ...

    def ping(self) -> None:
        """Raises StoreUnavailableError where the store is away."""
        ...
