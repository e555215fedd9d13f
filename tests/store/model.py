"""The model that the state machine holds the store against, and a snapshot of what Redis holds."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import redis

from shared.job import TRANSITIONS, JobRef, JobSpec, JobStatus
from shared.store.protocol import NewJob
from shared.store.retention import Retention

MOST_TURNS = 3
MOST_CRASHES = 4
RETENTION = Retention(history_max_turns=MOST_TURNS, worker_lease_s=100)
MODELS = ("demo", "other")
TENANTS = ("shop", "mill")
WORKERS = ("w1", "w2", "w3")
SLOTS = {"w1": 1, "w2": 4, "w3": 16}
QUEUED, RUNNING = JobStatus.QUEUED, JobStatus.RUNNING


@dataclass
class KeptBatch:
    """What the model knows of a batch. ``jobs``: those that were given records, in order, also if they were deleted since.
    ``staged``: those that wait for theirs. ``ends``: at which of the model's moments each job ended; one rule may end many, in any order."""

    tenant: str
    id: str
    key_id: str
    size: int
    staged: list[NewJob]
    jobs: list[JobRef] = field(default_factory=list)
    ends: dict[JobRef, int] = field(default_factory=dict)
    admitting: bool = False
    removing: bool = False
    expired: bool = False
    cancel_requested: bool = False
    cancel_at: int = 0
    deleted: int = 0


@dataclass
class Kept:
    """What the model knows of a job."""

    ref: JobRef
    spec: JobSpec
    key_id: str
    life: int  # a job that is deleted and made again under its id is another one
    status: JobStatus = QUEUED
    attempt: int = 0
    owner: str | None = None
    mark: str | None = None
    crashes: int = 0
    output: str | None = None
    convicted: bool = False
    batch: KeptBatch | None = None


@dataclass(frozen=True)
class Claimed:
    """One attempt of one worker, and the token it was claimed with."""

    ref: JobRef
    life: int
    worker: str
    attempt: int
    token: str


@dataclass
class House:
    """The model's side: what must hold."""

    jobs: dict[JobRef, Kept] = field(default_factory=dict)
    batches: dict[str, KeptBatch] = field(default_factory=dict)
    gone: set[JobRef] = field(default_factory=set)
    lives: Counter[JobRef] = field(default_factory=Counter)
    attempts: dict[JobRef, int] = field(default_factory=dict)
    claims: list[Claimed] = field(default_factory=list)
    alive: dict[str, str] = field(default_factory=dict)  # worker -> the model it runs
    dying: set[str] = field(default_factory=set)  # lease over, not yet reaped
    suspects: dict[str, set[JobRef]] = field(default_factory=lambda: defaultdict(set))
    paused: set[str] = field(default_factory=set)
    turns: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    usage: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    ended: Counter[str] = field(default_factory=Counter)
    written: set[tuple[JobRef, int, int]] = field(default_factory=set)  # (job, life, attempt) whose end was accepted
    requeued: int = 0
    moment: int = 0

    def of(self, status: JobStatus) -> list[Kept]:
        return [job for job in self.jobs.values() if job.status is status]

    def move(self, job: Kept, status: JobStatus) -> None:
        assert status in TRANSITIONS[job.status], f"{job.status} -> {status}"
        batch = job.batch
        if batch:
            if job.status.ended:
                del batch.ends[job.ref]
                if self.is_done(batch):
                    batch.cancel_requested, batch.cancel_at = False, 0
            if status.ended:
                batch.ends[job.ref] = self.moment
        job.status = status
        if job.owner:
            self.suspects[job.owner].discard(job.ref)
        if status.ended:
            job.mark = None
            self.ended[status] += 1
        else:
            job.owner = None

    def of_batch(self, batch: KeptBatch) -> list[Kept]:
        return [self.jobs[ref] for ref in batch.jobs if ref in self.jobs]

    def is_done(self, batch: KeptBatch) -> bool:
        return not batch.staged and all(job.status.ended for job in self.of_batch(batch))

    def stops(self, batch: KeptBatch | None) -> bool:
        return batch is not None and batch.cancel_requested and not self.is_done(batch)

    def unfinished(self, batch: KeptBatch) -> bool:
        """Whether a step is left to make."""
        if batch.admitting:
            return False
        sweeping = batch.cancel_requested and batch.cancel_at < len(batch.jobs)
        return batch.removing or bool(batch.staged) or sweeping

    def drop(self, job: Kept) -> None:
        """The job is deleted."""
        del self.jobs[job.ref]
        if job.owner:
            self.suspects[job.owner].discard(job.ref)
        self.attempts[job.ref] = job.attempt
        if job.spec.user_id:
            turns = self.turns[job.ref.tenant, job.spec.user_id]
            turns[:] = [turn for turn in turns if turn != job.ref.id]
        if job.batch and not job.batch.removing:
            job.batch.deleted += 1
            if job.status.ended:
                del job.batch.ends[job.ref]

    def hand_back(self, job: Kept) -> None:
        """A job that was to be stopped anyway ends as that; any other waits again."""
        self.move(job, JobStatus(job.mark) if job.mark else QUEUED)

    def orphan(self, job: Kept) -> None:
        job.crashes += 1
        if job.mark:
            self.move(job, JobStatus(job.mark))
        elif job.crashes >= MOST_CRASHES:
            self.move(job, JobStatus.FAILED)
            job.convicted = True
        else:
            self.move(job, QUEUED)
            self.requeued += 1

    def has_room(self, worker: str, crashes: int) -> bool:
        aboard = self.suspects[worker]
        if crashes < 2:
            return True
        if any(self.jobs[ref].crashes >= 3 for ref in aboard):
            return False
        return len(aboard) < (1 if crashes >= 3 else max(1, SLOTS[worker] // 8))


class Snapshot:
    """All of a deployment's keys, read in two round trips."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        names = [key.removeprefix(prefix) for key in client.keys(f"[{prefix[0]}]{prefix[1:]}*")]
        pipe = client.pipeline(transaction=False)
        for name in names:
            self._read(pipe, prefix + name, name.partition(":")[0])
        self._values = dict(zip(names, pipe.execute(), strict=True))
        self.jobs = {name.removeprefix("job:"): v for name, v in self._values.items() if name.startswith("job:")}
        pipe = client.pipeline(transaction=False)
        for ref in self.jobs:
            pipe.ttl(f"{prefix}job:{ref}")
        self.ttls: dict[str, int] = dict(zip(self.jobs, pipe.execute(), strict=True))

    @staticmethod
    def _read(pipe: redis.client.Pipeline, key: str, kind: str) -> None:
        if kind in {"job", "depth", "served", "waiting", "stats", "usage", "batch", "staged"}:
            pipe.hgetall(key)
        elif kind in {"line", "active", "sent", "deadlines", "workers", "dead", "jobs", "batches", "batches_due",
                      "batch_ended"}:  # fmt: skip
            pipe.zrange(key, 0, -1, withscores=True)
        elif kind in {"running", "owned", "suspects"}:
            pipe.smembers(key)
        elif kind in {"history", "batch_jobs", "batch_staged"}:
            pipe.lrange(key, 0, -1)
        else:
            pipe.exists(key)

    def hash(self, name: str) -> dict[str, str]:
        return self._values.get(name, {})

    def zset(self, name: str) -> dict[str, float]:
        return dict(self._values.get(name, ()))

    def list(self, name: str) -> list[str]:
        return self._values.get(name, [])

    def names(self, kind: str) -> list[str]:
        """What comes after a kind of key."""
        return [name.removeprefix(f"{kind}:") for name in self._values if name.startswith(f"{kind}:")]

    def set(self, name: str) -> set[str]:
        return set(self._values.get(name, ()))

    def turns(self, name: str) -> list[str]:
        return [json.loads(turn)["job_id"] for turn in self._values.get(name, ())]

    def usage(self, tenant: str) -> Counter[str]:
        counted: Counter[str] = Counter()
        for name, fields in self._values.items():
            if name.startswith(f"usage:{tenant}:"):
                for field_name, value in fields.items():
                    counted[field_name.rpartition("|")[2]] += int(value)
        return counted
