"""Runners in this process on a memory store, and real worker processes on a real server."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.job import JobRef, JobSpec
from shared.modes import load_modes
from shared.queue import make_celery, send_hints
from shared.store.memory import MemoryStore
from shared.store.protocol import Hint, JobStore, ModelInfo, NewJob, Submission, WorkerInfo
from tests.servers import Process, until
from worker.engine.factory import EngineConfig, build_engine
from worker.engine.protocol import Engine
from worker.prompts import PromptBuilder
from worker.publisher import Publisher
from worker.runner import Runner

_numbers = itertools.count(1)


def submit(store: JobStore, prompt: str = "hello", *, tenant: str = "shop", **spec) -> JobRef:
    """A job in the store, without a hint."""
    spec = {"mode": "general", "model": "demo", "max_length": 20, "temperature": 0.0} | spec
    ref = JobRef(tenant, f"j{next(_numbers)}")
    store.submit(Submission(tenant, "key_1", (NewJob(ref.id, JobSpec(prompt=prompt, **spec)),)))
    return ref


@pytest.fixture
def echo() -> Iterator[Engine]:
    engine = build_engine(EngineConfig(engine="echo", slots=4))
    engine.start()
    yield engine
    engine.shutdown()


@pytest.fixture
def slow_echo() -> Iterator[Engine]:
    """Takes 20 ms a token, so that a test can meet it at work."""
    engine = build_engine(EngineConfig(engine="echo", slots=4, echo_token_delay_s=0.02))
    engine.start()
    yield engine
    engine.shutdown()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def make_runner(store: JobStore, engine: Engine, sent: list[Hint] | None = None) -> Runner:
    """A runner of a worker that has a lease. ``sent`` gets the hints that it sends."""
    store.beat(WorkerInfo("w1", ModelInfo("demo", "1", "echo", "cpu", "none", 1024), 4), ())
    keep = [].extend if sent is None else sent.extend
    publisher = Publisher(
        store, "w1", flush_s=0.04, unwatched_s=0.04
    )  # not started: what was said goes along with the end
    return Runner(store, engine, PromptBuilder(engine, load_modes()), "w1", keep, "demo", publisher)


@pytest.fixture
def runner(store: MemoryStore, echo: Engine) -> Runner:
    return make_runner(store, echo)


@pytest.fixture
def start_worker(settings, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts a real worker process with these settings on the test's server."""
    started: list[Process] = []

    def start(*arguments: str, **env: str) -> Process:
        everything = {
            "REDIS_URL": settings.redis_url,
            "REDIS_PREFIX": settings.redis_prefix,
            "ENGINE": "echo",
            "MODEL_NAME": "demo",
            "WORKER_BEAT_S": "0.2",
            "WORKER_LEASE_S": "2",
            "RECONCILE_S": "0.2",
        }
        process = Process(
            [sys.executable, "-m", *(arguments or ("worker",))],
            tmp_path / f"worker{len(started)}.log",
            everything | env,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()


@pytest.fixture
def hint(settings) -> Iterator[Callable[[JobRef], None]]:
    celery = make_celery(settings)

    def send(ref: JobRef) -> None:
        send_hints(celery, [Hint(ref, "demo")], prefix=settings.redis_prefix)

    yield send
    celery.close()


@pytest.fixture
def ready(redis_store) -> Callable[[Process], None]:
    """Waits until a worker has announced itself."""

    def wait(process: Process) -> None:
        def announced() -> bool:
            assert process.process.poll() is None, process.output()
            return any(worker.pid == process.process.pid for worker in redis_store.fleet().workers)

        until(announced, 60, what="a ready worker")

    return wait
