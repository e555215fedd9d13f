"""A step that hangs: the worker that has it says nothing more, everybody is told the truth, and its jobs run elsewhere."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from shared.job import JobStatus
from tests.api.house import build
from tests.servers import until
from tests.worker.conftest import submit
from worker.engine.config import EngineConfig
from worker.engine.factory import build_engine
from worker.engine.protocol import EngineRequest, SamplingParams
from worker.health import workers_on
from worker.heartbeat import Pulse


def test_a_worker_that_hangs_is_off_the_list_and_its_jobs_run_elsewhere(
    start_worker, ready, redis_store, settings, hint
):
    """Two jobs aboard and one that waits; a step that takes a minute, on a worker with two slots."""
    house = build()
    house.store.fleet = redis_store.fleet
    first = start_worker(ECHO_TOKEN_DELAY_S="60", WORKER_HANG_S="1", ENGINE_SLOTS="2")
    ready(first)
    assert house.call("GET", "/health").json["status"] == "ok"
    refs = [submit(redis_store, f"job {n}", max_length=5) for n in range(3)]
    for ref in refs:
        hint(ref)
    until(lambda: [redis_store.get(ref).status for ref in refs].count(JobStatus.RUNNING) >= 2)
    until(lambda: redis_store.fleet().workers == (), 20, what="the lease's end")
    health = house.call("GET", "/health").json
    assert (health["status"], health["model_status"], health["workers"]) == ("degraded", "unavailable", 0)
    assert house.call("GET", "/readyz").status_code == 200, "jobs are still taken in: they wait"
    assert workers_on(socket.gethostname(), settings) == []
    assert first.wait(10) == 70
    ready(start_worker())
    until(lambda: all(redis_store.get(ref).status is JobStatus.SUCCEEDED for ref in refs), 30, what="the other worker")
    assert {redis_store.get(ref).attempt for ref in refs[:2]} == {2}
    assert house.call("GET", "/health").json["status"] == "ok"


@pytest.fixture
def held():
    """An engine whose steps wait for an event, and the event."""
    engine, go = build_engine(EngineConfig(engine="echo", slots=2)), threading.Event()
    engine.start()
    runner = engine._loop.model.runner
    step = runner.step

    def waiting(plan):
        assert go.wait(30)
        return step(plan)

    runner.step = waiting
    yield engine, go
    go.set()
    engine.shutdown()


def test_a_pulse_tells_hanging_from_idling_and_from_working(held):
    engine, go = held
    pulse = Pulse(engine, hang_s=0.3)
    time.sleep(0.4)
    assert pulse(), "with nothing to do it may stand still"
    handle = engine.submit(EngineRequest((1, 2), SamplingParams(max_tokens=3)))
    assert pulse()
    until(lambda: not pulse(), 5, what="the hang")
    assert engine.healthy(), "by its own account it lives; only the pulse knows"
    go.set()
    handle.result(10)
    assert pulse(), "and it forgives: a long step is no hang once it is over"


def test_an_engine_that_died_has_no_pulse(held):
    engine, go = held
    pulse = Pulse(engine, hang_s=60)
    engine._loop.model.runner.step = None
    go.set()
    engine.submit(EngineRequest((1, 2), SamplingParams(max_tokens=3)))
    assert pulse()
    engine._loop.model.runner.recover = None
    engine.submit(EngineRequest((1, 2), SamplingParams(max_tokens=3)))
    until(lambda: not pulse(), 5, what="its death")
