"""One trace for a job: API, wait, attempt and webhook, out of three processes' parts, over the real stores."""

from __future__ import annotations

import pytest

pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shared.job import JobRef
from shared.modes import load_modes
from shared.opentelemetry import Telemetry
from shared.store.protocol import ModelInfo, WorkerInfo
from tests.api.house import House, build
from tests.shared.test_traces import GIVEN
from worker.engine.protocol import Engine
from worker.prompts import PromptBuilder
from worker.publisher import Publisher
from worker.runner import Runner

TRACE_ID = int(GIVEN.split("-")[1], 16)


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def house(exporter: InMemorySpanExporter) -> House:
    house = build()
    house.app.extensions["smarttextgen-traces"] = Telemetry(exporter, "api", "test", at_once=True)
    return house


def run(house: House, exporter: InMemorySpanExporter, engine: Engine, job_id: str) -> None:
    """As a worker process does."""
    house.store.beat(WorkerInfo("w1", ModelInfo("demo", "1", "echo", "cpu", "none", 1024), 4), ())
    prompts = PromptBuilder(engine, load_modes())
    traces = Telemetry(exporter, "worker", "test", at_once=True)
    publisher = Publisher(house.store, "w1", flush_s=0.04, unwatched_s=0.04)
    Runner(house.store, engine, prompts, "w1", lambda _: None, "demo", publisher, traces=traces).run(
        JobRef("shop", job_id)
    )


def test_a_job_is_one_trace_over_api_and_worker(house: House, exporter: InMemorySpanExporter, echo: Engine):
    response = house.call("POST", "/api/generate", json={"prompt": "hi"}, headers={"traceparent": GIVEN})
    job_id = response.json["id"]
    run(house, exporter, echo, job_id)
    api, queue, generate = exporter.get_finished_spans()
    assert [api.name, queue.name, generate.name] == ["POST /api/generate", "queue", "generate"]
    assert {span.context.trace_id for span in (api, queue, generate)} == {TRACE_ID}
    assert api.parent.span_id == int(GIVEN.split("-")[2], 16)
    assert queue.parent.span_id == generate.parent.span_id == api.context.span_id
    assert response.headers["traceparent"] == f"00-{TRACE_ID:032x}-{api.context.span_id:016x}-01"
    assert {span.attributes["textgen.job_id"] for span in (api, queue, generate)} == {job_id}
    job = house.store.get(JobRef("shop", job_id))
    assert (queue.start_time, queue.end_time) == (job.created_at * 10**6, job.started_at * 10**6)
    assert generate.attributes["textgen.end"] == "succeeded"
    assert generate.attributes["textgen.completion_tokens"] == job.usage.completion_tokens
    assert [span.resource.attributes["service.name"] for span in (api, generate)] == [
        "smarttextgen-api",
        "smarttextgen-worker",
    ]
    assert not any("hi" in str(value) for span in (api, queue, generate) for value in span.attributes.values())


def test_without_a_traceparent_the_api_begins_a_trace(house: House, exporter: InMemorySpanExporter, echo: Engine):
    job_id = house.submit()
    run(house, exporter, echo, job_id)
    api, queue, generate = exporter.get_finished_spans()
    assert api.parent is None
    assert api.context.trace_id == queue.context.trace_id == generate.context.trace_id != TRACE_ID


def test_scrapes_and_health_checks_are_not_traced(house: House, exporter: InMemorySpanExporter):
    for path in ("/metrics", "/health", "/livez", "/readyz"):
        house.call("GET", path, key=None)
    assert exporter.get_finished_spans() == ()


def test_without_telemetry_what_was_given_is_kept_and_returned(echo: Engine):
    house = build()
    response = house.call("POST", "/api/generate", json={"prompt": "hi"}, headers={"traceparent": GIVEN})
    assert response.headers["traceparent"] == GIVEN
    assert house.store.get(JobRef("shop", response.json["id"])).traceparent == GIVEN
    assert "traceparent" not in house.call("GET", "/api/modes").headers
