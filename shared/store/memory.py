"""The job store in memory: the same contract as ``RedisStore`` within one process, for tests (ours and users')."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from shared.errors import (
    AuthenticationError,
    GoneError,
    IdempotencyInProgressError,
    IdempotencyKeyReusedError,
    JobAlreadyFinishedError,
    JobExistsError,
    NotFoundError,
    QueueLimitError,
)
from shared.job import PRIORITY_RANK, Choice, Job, JobRef, JobStatus, Outcome, Turn, Usage
from shared.store.protocol import (
    Batch,
    Claim,
    Finished,
    Fleet,
    JobFilter,
    ModelInfo,
    Page,
    RateLimit,
    RateState,
    Receipt,
    Submission,
    WorkerInfo,
)
from shared.store.records import cursor, parse_cursor, rate_limited, turns_until
from shared.store.retention import Retention

EMA_START_MS = 1000.0


@dataclass
class _Entry:
    """A job as it is kept: the record, and what only the store needs of it."""

    job: Job
    seq: int
    token: str | None = None
    cache_key: str | None = None


@dataclass
class _Idempotent:
    fingerprint: str
    receipt: Receipt
    busy_until: int
    ends_at: int
    response: str | None = None


@dataclass
class _Window:
    count: int
    ends_at: int


@dataclass
class _State:
    """Everything that is kept. Keys mirror those of Redis (see ``lua/prelude.lua``)."""

    jobs: dict[JobRef, _Entry] = field(default_factory=dict)
    tombs: dict[JobRef, int] = field(default_factory=dict)
    attempts: dict[JobRef, int] = field(default_factory=dict)
    batches: dict[tuple[str, str], tuple[int, tuple[str, ...]]] = field(default_factory=dict)
    histories: dict[tuple[str, str], list[Turn]] = field(default_factory=dict)
    cache: dict[tuple[str, str], tuple[tuple[Choice, ...], Usage, int]] = field(default_factory=dict)
    idempotent: dict[str, _Idempotent] = field(default_factory=dict)
    windows: dict[str, _Window] = field(default_factory=dict)
    workers: dict[str, tuple[WorkerInfo, int]] = field(default_factory=dict)
    models: dict[str, ModelInfo] = field(default_factory=dict)
    averages_ms: dict[str, float] = field(default_factory=dict)
    tokenizers: dict[str, bytes] = field(default_factory=dict)


class MemoryStore:
    """A ``JobStore`` for tests. Thread-safe.

    clock: seconds since the epoch. key_exists: says whether a key's digest is still valid. on_ended: called with each
    job that ends, outside the lock.
    """

    def __init__(
        self,
        retention: Retention | None = None,
        *,
        clock: Callable[[], float] = time.time,
        key_exists: Callable[[str], bool] = lambda _digest: True,
        on_ended: Callable[[JobRef], None] = lambda _ref: None,
    ) -> None:
        self._retention = retention or Retention()
        self._clock = clock
        self._key_exists = key_exists
        self._on_ended = on_ended
        self._lock = threading.RLock()
        self._state = _State()
        self._seq = 0

    def _now(self) -> int:
        return int(self._clock() * 1000)

    # --- what is still there

    def _entry(self, ref: JobRef) -> _Entry | None:
        entry = self._state.jobs.get(ref)
        if entry and entry.job.expires_at is not None and entry.job.expires_at <= self._now():
            del self._state.jobs[ref]
            return None
        return entry

    def _require(self, ref: JobRef) -> _Entry:
        entry = self._entry(ref)
        if entry is None:
            if self._state.tombs.get(ref, 0) > self._now():
                raise GoneError("This job's retention is over.")
            raise NotFoundError("No such job.")
        return entry

    def _waiting(self, model: str | None = None) -> list[_Entry]:
        found = (e for e in self._state.jobs.values() if e.job.status is JobStatus.QUEUED)
        return sorted(
            (e for e in found if model in (None, e.job.spec.model)),
            key=lambda e: (PRIORITY_RANK[e.job.spec.priority], e.seq),
        )

    def _slots(self, model: str) -> int:
        now = self._now()
        return max(
            1, sum(w.slots for w, lease in self._state.workers.values() if w.model.name == model and lease > now)
        )

    def _view(self, entry: _Entry, *, history: bool = True) -> Job:
        job = entry.job
        if job.status is JobStatus.QUEUED:
            position = 1 + self._waiting(job.spec.model).index(entry)
            average = self._state.averages_ms.get(job.spec.model, EMA_START_MS)
            return job.evolve(queue_position=position, eta_ms=int(average * position / self._slots(job.spec.model)))
        if history and job.status is JobStatus.SUCCEEDED and job.spec.user_id:
            return job.evolve(history=turns_until(self.history(job.ref.tenant, job.spec.user_id), job.id))
        return job

    # --- the client's side

    def submit(self, submission: Submission) -> Receipt:
        with self._lock:
            if submission.key_digest and not self._key_exists(submission.key_digest):
                raise AuthenticationError()
            replay = self._replay(submission)
            if replay:
                return replay
            first = self._entry(JobRef(submission.tenant, submission.jobs[0].id))
            if first:
                if first.job.spec.fingerprint() != submission.jobs[0].spec.fingerprint():
                    raise JobExistsError()
                return self._receipt(submission, first.job.created_at, created=not submission.chosen_id)
            if submission.chosen_id:
                self._refuse_gone(JobRef(submission.tenant, submission.jobs[0].id))
            rate = self._charge(submission, submission.rate_limit) if submission.rate_limit else None
            self._admit(submission)
            receipt = self._receipt(submission, self._now(), rate=rate)
            self._remember(submission, receipt)
            return receipt

    def _replay(self, submission: Submission) -> Receipt | None:
        idempotency = submission.idempotency
        seen = self._state.idempotent.get(idempotency.scope) if idempotency else None
        if idempotency is None or seen is None or seen.ends_at <= self._now():
            return None
        if seen.fingerprint != idempotency.fingerprint:
            raise IdempotencyKeyReusedError()
        if seen.response is None and seen.busy_until > self._now():
            raise IdempotencyInProgressError()
        known = seen.receipt
        return Receipt(
            known.ids, known.positions, known.etas_ms, known.created_at, known.batch_id,
            created=False, replayed=True, response=seen.response,
        )  # fmt: skip

    def _refuse_gone(self, ref: JobRef) -> None:
        if self._state.tombs.get(ref, 0) > self._now():
            raise GoneError("This job's retention is over.")

    def _charge(self, submission: Submission, limit: RateLimit) -> RateState:
        now = self._now()
        window = self._state.windows.get(limit.key)
        if window is None or window.ends_at <= now:
            window = _Window(0, now + limit.window_s * 1000)
            self._state.windows[limit.key] = window
        reset_s = -(-(window.ends_at - now) // 1000)
        if window.count + limit.cost > limit.limit:
            raise rate_limited(submission, remaining=limit.limit - window.count, reset_s=reset_s)
        window.count += limit.cost
        return RateState(limit.limit, limit.limit - window.count, reset_s)

    def _admit(self, submission: Submission) -> None:
        waiting = sum(entry.job.key_id == submission.key_id for entry in self._waiting())
        if submission.max_queued is not None and waiting + len(submission.jobs) > submission.max_queued:
            raise QueueLimitError(f"This key may have {submission.max_queued} jobs waiting.", retry_after_s=5)
        for new in submission.jobs:
            self._seq += 1
            job = Job(
                ref=JobRef(submission.tenant, new.id), spec=new.spec, status=JobStatus.QUEUED, key_id=submission.key_id,
                created_at=self._now(), batch_id=submission.batch_id, custom_id=new.custom_id,
                request_id=submission.request_id,
                attempt=self._state.attempts.pop(JobRef(submission.tenant, new.id), 0),
            )  # fmt: skip
            self._state.jobs[job.ref] = _Entry(job, self._seq)
        if submission.batch_id:
            ids = tuple(new.id for new in submission.jobs)
            self._state.batches[submission.tenant, submission.batch_id] = (self._now(), ids)

    def _receipt(
        self, submission: Submission, created_at: int, *, created: bool = True, rate: RateState | None = None
    ) -> Receipt:
        views = [self._view(self._state.jobs[JobRef(submission.tenant, new.id)]) for new in submission.jobs]
        return Receipt(
            ids=tuple(job.id for job in views),
            positions=tuple(job.queue_position or 0 for job in views),
            etas_ms=tuple(job.eta_ms or 0 for job in views),
            created_at=created_at, batch_id=submission.batch_id, created=created, rate=rate,
        )  # fmt: skip

    def _remember(self, submission: Submission, receipt: Receipt) -> None:
        if submission.idempotency:
            now, wanted = self._now(), submission.idempotency
            self._state.idempotent[wanted.scope] = _Idempotent(
                wanted.fingerprint, receipt, now + wanted.in_progress_s * 1000, now + wanted.ttl_s * 1000
            )

    def complete_idempotent(self, scope: str, response: str) -> None:
        with self._lock:
            if scope in self._state.idempotent:
                self._state.idempotent[scope].response = response

    def get(self, ref: JobRef) -> Job:
        with self._lock:
            return self._view(self._require(ref))

    def list_jobs(self, tenant: str, where: JobFilter, cursor_text: str | None, limit: int) -> Page[Job]:
        before = parse_cursor(cursor_text)
        with self._lock:
            entries = sorted(
                (e for ref in list(self._state.jobs) if ref.tenant == tenant and (e := self._entry(ref))),
                key=lambda e: -e.seq,
            )
            fitting = [e for e in entries if (before is None or e.seq < before) and _fits(e.job, where)]
            page = fitting[:limit]
            following = cursor(page[-1].seq) if len(fitting) > limit else None
            return Page(tuple(self._view(entry, history=False) for entry in page), following)

    def cancel(self, ref: JobRef) -> Job:
        with self._lock:
            entry = self._require(ref)
            match entry.job.status:
                case JobStatus.QUEUED:
                    self._end(entry, Outcome(JobStatus.CANCELED))
                case JobStatus.RUNNING:
                    entry.job = entry.job.evolve(cancel_requested=True)
                    return entry.job
                case JobStatus.CANCELED:
                    return entry.job
                case _:
                    raise JobAlreadyFinishedError()
        self._on_ended(ref)
        return entry.job

    def _end(self, entry: _Entry, outcome: Outcome) -> None:
        now = self._now()
        job, keep = entry.job, self._retention
        expires_at = now + (job.spec.result_ttl_s or keep.result_ttl_s) * 1000
        entry.job = job.evolve(
            status=outcome.status, choices=outcome.choices, usage=outcome.usage, error=outcome.error,
            cached=outcome.cached, finished_at=now, expires_at=expires_at, cancel_requested=False,
        )  # fmt: skip
        entry.token = None
        if keep.tombstone_ttl_s:
            self._state.tombs[job.ref] = expires_at + keep.tombstone_ttl_s * 1000

    def delete(self, ref: JobRef) -> None:
        with self._lock:
            entry = self._entry(ref)
            tomb = self._state.tombs.pop(ref, 0) > self._now()
            if entry is None:
                if not tomb:
                    raise NotFoundError("No such job.")
                return
            del self._state.jobs[ref]
            if not entry.job.status.ended and entry.job.attempt:
                self._state.attempts[ref] = entry.job.attempt
            if entry.cache_key:
                self._state.cache.pop((ref.tenant, entry.cache_key), None)
            if entry.job.spec.user_id:
                turns = self._state.histories.get((ref.tenant, entry.job.spec.user_id), [])
                turns[:] = [turn for turn in turns if turn.job_id != ref.id]
        self._on_ended(ref)

    def get_batch(self, tenant: str, batch_id: str) -> Batch:
        with self._lock:
            if (tenant, batch_id) not in self._state.batches:
                raise NotFoundError("No such batch.")
            created_at, ids = self._state.batches[tenant, batch_id]
            jobs = tuple(self._view(e) for job_id in ids if (e := self._entry(JobRef(tenant, job_id))))
            return Batch(batch_id, tenant, created_at, len(ids), jobs)

    def history(self, tenant: str, user_id: str) -> tuple[Turn, ...]:
        with self._lock:
            return tuple(self._state.histories.get((tenant, user_id), ()))

    def delete_history(self, tenant: str, user_id: str) -> int:
        with self._lock:
            return len(self._state.histories.pop((tenant, user_id), ()))

    # --- the worker's side

    def claim(self, ref: JobRef, worker: str, token: str) -> Claim | None:
        with self._lock:
            entry = self._entry(ref)
            if entry is None:
                return None
            job = entry.job
            if job.status is JobStatus.QUEUED:
                entry.token = token
                entry.job = job.evolve(
                    status=JobStatus.RUNNING, owner=worker, attempt=job.attempt + 1, started_at=self._now()
                )
            elif (job.status, job.owner, entry.token) != (JobStatus.RUNNING, worker, token):
                return None
            return Claim(entry.job, self.history(ref.tenant, job.spec.user_id) if job.spec.user_id else ())

    def finish(self, ref: JobRef, worker: str, attempt: int, outcome: Outcome) -> Finished:
        with self._lock:
            entry = self._entry(ref)
            if entry is None or (entry.job.owner, entry.job.attempt) != (worker, attempt):
                return Finished.FENCED
            if entry.job.status is outcome.status:
                return Finished.ACCEPTED
            if entry.job.status is not JobStatus.RUNNING:
                return Finished.FENCED
            self._end(entry, outcome)
            if outcome.status is JobStatus.SUCCEEDED:
                self._succeeded(entry, outcome)
        self._on_ended(ref)
        return Finished.ACCEPTED

    def _succeeded(self, entry: _Entry, outcome: Outcome) -> None:
        job, keep, now = entry.job, self._retention, self._now()
        if job.spec.user_id and keep.history_max_turns and job.output is not None:
            turns = self._state.histories.setdefault((job.ref.tenant, job.spec.user_id), [])
            turns.append(Turn(job.id, job.spec.prompt, job.output, job.spec.mode, now))
            del turns[: -keep.history_max_turns]
        if outcome.cache_key and keep.cache_ttl_s:
            entry.cache_key = outcome.cache_key
            if not outcome.cached:
                stored = (outcome.choices, outcome.usage, now + keep.cache_ttl_s * 1000)
                self._state.cache[job.ref.tenant, outcome.cache_key] = stored
        if not outcome.cached:
            model, took = job.spec.model, job.execution_time_ms or 0
            before = self._state.averages_ms.get(model)
            self._state.averages_ms[model] = took if before is None else 0.9 * before + 0.1 * took

    def release(self, ref: JobRef, worker: str, attempt: int) -> bool:
        with self._lock:
            entry = self._entry(ref)
            if entry is None or entry.job.status is not JobStatus.RUNNING:
                return False
            if (entry.job.owner, entry.job.attempt) != (worker, attempt):
                return False
            entry.token = None
            entry.job = entry.job.evolve(status=JobStatus.QUEUED, owner=None, started_at=None)
            return True

    def cached(self, tenant: str, cache_key: str) -> tuple[tuple[Choice, ...], Usage] | None:
        with self._lock:
            found = self._state.cache.get((tenant, cache_key))
            return found[:2] if found and found[2] > self._now() else None

    def beat(self, worker: WorkerInfo, running: Sequence[tuple[JobRef, int]]) -> frozenset[JobRef]:
        with self._lock:
            self._state.workers[worker.id] = (worker, self._now() + int(self._retention.worker_lease_s * 1000))
            self._state.models[worker.model.name] = worker.model
            return frozenset(ref for ref, attempt in running if self._must_stop(ref, worker.id, attempt))

    def _must_stop(self, ref: JobRef, worker: str, attempt: int) -> bool:
        entry = self._entry(ref)
        if entry is None or entry.job.cancel_requested:
            return True
        return (entry.job.status, entry.job.owner, entry.job.attempt) != (JobStatus.RUNNING, worker, attempt)

    def depart(self, worker: str) -> None:
        with self._lock:
            self._state.workers.pop(worker, None)

    def put_tokenizer(self, digest: str, content: bytes) -> None:
        with self._lock:
            self._state.tokenizers[digest] = content

    def tokenizer(self, digest: str) -> bytes | None:
        with self._lock:
            return self._state.tokenizers.get(digest)

    # --- everybody's

    def fleet(self) -> Fleet:
        with self._lock:
            now = self._now()
            models = {entry.job.spec.model for entry in self._state.jobs.values()}
            return Fleet(
                workers=tuple(worker for worker, lease in self._state.workers.values() if lease > now),
                models=dict(self._state.models),
                queue_lengths={model: len(self._waiting(model)) for model in models},
            )

    def ping(self) -> None:
        """It is always there."""


def _fits(job: Job, where: JobFilter) -> bool:
    wanted = (where.status, where.mode, where.model, where.user_id)
    actual = (job.status, job.spec.mode, job.spec.model, job.spec.user_id)
    if any(w is not None and w != a for w, a in zip(wanted, actual, strict=True)):
        return False
    after, before = where.created_after, where.created_before
    return (after is None or job.created_at > after) and (before is None or job.created_at < before)
