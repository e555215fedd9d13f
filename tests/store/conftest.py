"""The store under test: every contract test runs over each implementation."""

from __future__ import annotations

import itertools

import pytest

from shared.job import Choice, JobRef, JobSpec, JobStatus, Outcome, Usage
from shared.store.memory import MemoryStore
from shared.store.protocol import JobStore, ModelInfo, NewJob, Receipt, Submission, WorkerInfo
from shared.store.redis import RedisStore
from shared.store.retention import Retention

RETENTION = Retention(history_max_turns=3, worker_lease_s=1.2)
MODEL = ModelInfo("demo", "r1", "echo", "cpu", "float32", 1024)


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest) -> JobStore:
    if request.param == "memory":
        return MemoryStore(RETENTION)
    client, settings = request.getfixturevalue("redis_client"), request.getfixturevalue("settings")
    return RedisStore(client, "{" + settings.redis_prefix + "}:", RETENTION)


class Driver:
    """Says in a word what a test wants of a store."""

    def __init__(self, store: JobStore) -> None:
        self.store = store
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

    def ref(self, *prompts: str, tenant: str = "shop", **more) -> JobRef:
        return JobRef(tenant, self.submit(*prompts, tenant=tenant, **more).ids[0])

    def running(self, worker: str = "w1", **more) -> JobRef:
        ref = self.ref(**more)
        assert self.store.claim(ref, worker, "token") is not None
        return ref

    def finished(self, prompt: str = "hello", output: str = "world", **more) -> JobRef:
        ref = self._claimed(prompt, **more)
        assert self.store.finish(ref, "w1", 1, success(output)) == "accepted"
        return ref

    def _claimed(self, prompt: str, **more) -> JobRef:
        ref = self.ref(prompt, **more)
        assert self.store.claim(ref, "w1", "token") is not None
        return ref


def success(output: str = "world", *, cache_key: str | None = None, cached: bool = False) -> Outcome:
    return Outcome(JobStatus.SUCCEEDED, (Choice(0, output, "stop"),), Usage(3, 2), cache_key=cache_key, cached=cached)


def worker(name: str = "w1", slots: int = 4) -> WorkerInfo:
    return WorkerInfo(name, MODEL, slots, "ready", "host", 1)


@pytest.fixture
def drive(store: JobStore) -> Driver:
    return Driver(store)
