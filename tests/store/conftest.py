"""The store under test: every contract test runs over each implementation."""

from __future__ import annotations

import itertools

import pytest

from shared.job import Choice, JobRef, JobSpec, JobStatus, Outcome, Usage
from shared.store.memory import MemoryStore
from shared.store.protocol import Claim, Finished, JobStore, ModelInfo, NewJob, Receipt, Submission, WorkerInfo
from shared.store.redis import RedisStore
from shared.store.retention import Retention

RETENTION = Retention(history_max_turns=3, worker_lease_s=60)
ACCEPTED, FENCED = Finished.ACCEPTED, Finished.FENCED
MODEL = ModelInfo("demo", "r1", "echo", "cpu", "float32", 1024)


@pytest.fixture
def retention() -> Retention:
    return RETENTION


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest, retention: Retention) -> JobStore:
    if request.param == "memory":
        return MemoryStore(retention)
    client, settings = request.getfixturevalue("redis_client"), request.getfixturevalue("settings")
    return RedisStore(client, "{" + settings.redis_prefix + "}:", retention)


class Driver:
    """Says in a word what a test wants of a store."""

    def __init__(self, store: JobStore) -> None:
        self.store = store
        self.beaten: set[str] = set()
        self._numbers = itertools.count(1)

    def submission(self, *prompts: str, tenant: str = "shop", **more) -> Submission:
        spec_fields = {name: more.pop(name) for name in list(more) if name in JobSpec.__dataclass_fields__}
        jobs = tuple(
            NewJob(f"job-{next(self._numbers)}", JobSpec(prompt=p, mode="general", model="demo", **spec_fields))
            for p in prompts or ("hello",)
        )
        return Submission(tenant=tenant, key_id=more.pop("key_id", "key_1"), jobs=jobs, **more)

    def submit(self, *prompts: str, **more) -> Receipt:
        return self.store.submit(self.submission(*prompts, **more))

    def claim(self, ref: JobRef, who: str = "w1", token: str = "token") -> Claim | None:
        """Claim as a worker that has a lease."""
        if who not in self.beaten:
            self.store.beat(worker(who), [])
            self.beaten.add(who)
        return self.store.claim(ref, who, token)

    def finish(self, ref: JobRef, who: str, attempt: int, outcome: Outcome) -> Finished:
        """The verdict alone."""
        return self.store.finish(ref, who, attempt, outcome)[0]

    def ref(self, *prompts: str, tenant: str = "shop", **more) -> JobRef:
        return JobRef(tenant, self.submit(*prompts, tenant=tenant, **more).ids[0])

    def running(self, who: str = "w1", **more) -> JobRef:
        ref = self.ref(**more)
        assert self.claim(ref, who) is not None
        return ref

    def finished(self, prompt: str = "hello", output: str = "world", **more) -> JobRef:
        ref = self._claimed(prompt, **more)
        assert self.finish(ref, "w1", 1, success(output)) == ACCEPTED
        return ref

    def _claimed(self, prompt: str, **more) -> JobRef:
        ref = self.ref(prompt, **more)
        assert self.claim(ref) is not None
        return ref


def success(output: str = "world", *, cache_key: str | None = None, cached: bool = False) -> Outcome:
    return Outcome(JobStatus.SUCCEEDED, (Choice(0, output, "stop"),), Usage(3, 2), cache_key=cache_key, cached=cached)


def worker(name: str = "w1", slots: int = 4) -> WorkerInfo:
    return WorkerInfo(name, MODEL, slots, "ready", "host", 1)


@pytest.fixture
def drive(store: JobStore) -> Driver:
    return Driver(store)
