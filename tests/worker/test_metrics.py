"""What a worker tells Prometheus of what it does."""

from __future__ import annotations

import threading
import urllib.request
from dataclasses import replace

import pytest
from prometheus_client import generate_latest

from shared.errors import ConfigurationError
from shared.job import JobRef, JobStatus
from shared.modes import load_modes
from shared.store.memory import MemoryStore
from shared.store.protocol import ModelInfo, Stop, WorkerInfo
from tests.api.test_metrics import samples
from tests.servers import free_port, until
from tests.worker.conftest import submit
from worker.engine.protocol import Engine, Reused
from worker.metrics import WorkerMetrics
from worker.prompts import PromptBuilder
from worker.publisher import Publisher
from worker.runner import Runner


class Desk:
    """A runner on the echo engine, and what its metrics say."""

    def __init__(self, store: MemoryStore, engine: Engine) -> None:
        self.store = store
        self.metrics = WorkerMetrics("demo")
        self.metrics.watch(engine)
        store.beat(WorkerInfo("w1", ModelInfo("demo", "1", "echo", "cpu", "none", 1024), 4), ())
        prompts = PromptBuilder(engine, load_modes())
        self.runner = Runner(
            store,
            engine,
            prompts,
            "w1",
            lambda _: None,
            "demo",
            Publisher(store, "w1", flush_s=0.04, unwatched_s=0.04),
            self.metrics,
        )

    def run(self, **spec) -> JobRef:
        ref = submit(self.store, **spec)
        self.runner.run(ref)
        return ref

    def value(self, name: str, **labels: str) -> float:
        told = samples(generate_latest(self.metrics.registry).decode())
        return told[name, frozenset({"model_name": "demo", **labels}.items())]


@pytest.fixture
def desk(store: MemoryStore, echo: Engine) -> Desk:
    return Desk(store, echo)


@pytest.fixture
def slow_desk(store: MemoryStore, slow_echo: Engine) -> Desk:
    return Desk(store, slow_echo)


def test_every_metric_is_there_before_the_first_job(desk: Desk):
    for end in ("succeeded", "failed", "canceled", "expired", "handed_back", "fenced"):
        assert desk.value("textgen_attempts_total", end=end) == 0
    for reason in ("stop", "length", "abort"):
        assert desk.value("vllm:request_success_total", finished_reason=reason) == 0
    for result in ("hit", "miss"):
        assert desk.value("textgen_cache_lookups_total", result=result) == 0
    assert desk.value("textgen_engine_healthy") == 1


def test_a_job_from_submit_to_end(desk: Desk):
    desk.run(max_length=20)
    assert desk.value("textgen_attempts_total", end="succeeded") == 1
    assert desk.value("vllm:request_success_total", finished_reason="length") == 1
    assert desk.value("vllm:generation_tokens_total") == 20
    assert desk.value("vllm:prompt_tokens_total") > 0
    assert desk.value("textgen_engine_steps_total") == 20
    assert desk.value("vllm:inter_token_latency_seconds_count") == 19  # between 20 tokens
    for name in ("time_to_first_token", "e2e_request_latency", "request_queue_time"):
        assert desk.value(f"vllm:{name}_seconds_count") == 1
    assert desk.value("vllm:e2e_request_latency_seconds_sum") >= desk.value("vllm:time_to_first_token_seconds_sum")
    assert desk.value("vllm:time_to_first_token_seconds_sum") >= desk.value("vllm:request_queue_time_seconds_sum")


def test_memory_and_what_was_reused(desk: Desk, echo: Engine, monkeypatch: pytest.MonkeyPatch):
    stats = replace(echo.stats(), preemptions=3, reused=Reused(queries=70, hits=48, held_bytes=900))
    monkeypatch.setattr(echo, "stats", lambda: stats)
    assert desk.value("vllm:num_preemptions_total") == 3
    assert desk.value("vllm:prefix_cache_queries_total") == 70
    assert desk.value("vllm:prefix_cache_hits_total") == 48
    assert desk.value("textgen_prefix_cache_bytes") == 900


def test_rows_of_a_step(desk: Desk):
    desk.run(max_length=20, n=3)
    assert desk.value("textgen_step_rows_bucket", le="1.0") == 1  # the prompt's step
    assert desk.value("textgen_step_rows_bucket", le="2.0") == 1
    assert desk.value("textgen_step_rows_bucket", le="4.0") == 20
    assert desk.value("textgen_step_rows_sum") == 1 + 3 * 19
    assert desk.value("vllm:inter_token_latency_seconds_count") == 3 * 19


def test_the_cache(desk: Desk):
    desk.run()
    desk.run()
    desk.run(temperature=1.0)  # cannot come from the cache
    assert (
        desk.value("textgen_cache_lookups_total", result="miss"),
        desk.value("textgen_cache_lookups_total", result="hit"),
    ) == (1, 1)


def test_a_failure_is_an_attempt_and_no_success(desk: Desk):
    ref = desk.run(prompt="x" * 20_000)
    assert desk.store.get(ref).status is JobStatus.FAILED
    assert desk.value("textgen_attempts_total", end="failed") == 1
    assert desk.value("vllm:request_success_total", finished_reason="length") == 0


def test_while_it_runs_and_when_it_is_canceled(slow_desk: Desk):
    ref = submit(slow_desk.store, max_length=500)
    running = threading.Thread(target=slow_desk.runner.run, args=(ref,))
    running.start()
    until(lambda: slow_desk.value("vllm:num_requests_running") == 1)
    until(lambda: slow_desk.value("vllm:kv_cache_usage_perc") > 0)
    slow_desk.runner.stop(ref, Stop.CANCELED)
    running.join()
    assert slow_desk.value("textgen_cancel_latency_seconds_count") == 1
    assert slow_desk.value("textgen_attempts_total", end="canceled") == 1
    assert slow_desk.value("vllm:request_success_total", finished_reason="abort") == 1
    assert slow_desk.value("vllm:num_requests_running") == 0


def test_a_fenced_end_counts_as_such_alone(slow_desk: Desk):
    ref = submit(slow_desk.store, max_length=20)
    running = threading.Thread(target=slow_desk.runner.run, args=(ref,))
    running.start()
    until(lambda: slow_desk.value("vllm:num_requests_running") == 1)
    slow_desk.store.delete(ref)
    running.join()
    assert slow_desk.value("textgen_attempts_total", end="fenced") == 1
    assert slow_desk.value("textgen_attempts_total", end="succeeded") == 0


def test_a_later_attempt_has_not_waited_since_its_submit(desk: Desk):
    ref = submit(desk.store)
    desk.store.cancel(ref)
    desk.store.retry(ref)
    desk.runner.run(ref)
    desk.store.delete(ref)
    first = desk.value("vllm:request_queue_time_seconds_count")
    ref = submit(desk.store)
    claim = desk.store.claim(ref, "w1", "t")
    desk.store.release(ref, "w1", claim.job.attempt)
    desk.runner.run(ref)
    assert desk.value("vllm:request_queue_time_seconds_count") == first
    assert desk.value("textgen_attempts_total", end="succeeded") == 2


def test_device_memory(desk: Desk):
    used, total = (desk.value("textgen_device_memory_bytes", kind=kind) for kind in ("used", "total"))
    assert 0 < used < total


def test_it_is_served(desk: Desk):
    port = free_port()
    desk.metrics.port.open("127.0.0.1", port)
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"}
    )
    with urllib.request.urlopen(asked) as response:  # with vLLM's colons, whatever is asked for
        assert b"\nvllm:num_requests_running{" in response.read()
    with pytest.raises(ConfigurationError):
        WorkerMetrics("demo").port.open("127.0.0.1", port)
    desk.metrics.port.close()
    WorkerMetrics("demo").port.open("127.0.0.1", 0)


def test_an_engine_that_is_not_healthy_tells_no_counts(desk: Desk, echo: Engine):
    echo.shutdown()
    assert desk.value("textgen_engine_healthy") == 0
    with pytest.raises(KeyError):
        desk.value("vllm:num_requests_running")
