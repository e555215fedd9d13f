"""A webhook is a span of its job's trace, and tells its receiver so."""

from __future__ import annotations

import pytest

pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shared.opentelemetry import Telemetry
from tests.servers import until
from tests.webhooks.conftest import Post
from tests.webhooks.receiver import Receiver


def test_a_delivery_is_a_span_under_the_request(
    monkeypatch: pytest.MonkeyPatch, run_courier, real: Post, receiver: Receiver
):
    exporter = InMemorySpanExporter()
    monkeypatch.setattr(
        "worker.courier.__main__.traces_of", lambda _, process: Telemetry(exporter, process, "test", at_once=True)
    )
    run_courier()
    ref = real.job(receiver.url, request_id="req_1", traceparent=f"00-{'a' * 32}-{'b' * 16}-01")
    request = receiver.wait_for(1)[0]
    until(exporter.get_finished_spans, 10)
    (span,) = exporter.get_finished_spans()
    assert (span.name, span.attributes["textgen.job_id"], span.attributes["textgen.status"]) == ("webhook", ref.id, 200)
    assert (span.context.trace_id, span.parent.span_id) == (int("a" * 32, 16), int("b" * 16, 16))
    assert request.headers["traceparent"] == f"00-{'a' * 32}-{span.context.span_id:016x}-01"
