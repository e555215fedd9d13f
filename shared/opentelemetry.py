"""``Traces`` over OpenTelemetry's SDK. Imported only where the extra ``otel`` is wanted."""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared.spans import Kind, Span, Traces, Value

_PROPAGATOR = TraceContextTextMapPropagator()
_NS = 1_000_000


class Telemetry:
    """See ``shared.spans.Traces``."""

    def __init__(self, exporter: SpanExporter, process: str, environment: str, *, at_once: bool) -> None:
        """``at_once``: each span goes out as it ends, and not in batches."""
        names = {"service.name": f"smarttextgen-{process}", "deployment.environment.name": environment}
        self._provider = TracerProvider(resource=Resource.create(names))
        self._provider.add_span_processor((SimpleSpanProcessor if at_once else BatchSpanProcessor)(exporter))
        self._tracer = self._provider.get_tracer("smarttextgen")

    def start(
        self, name: str, kind: Kind, parent: str | None, *, start_ms: int | None = None, **attributes: Value | None
    ) -> Span:
        context = _PROPAGATOR.extract({"traceparent": parent}) if parent else Context()
        span = self._tracer.start_span(
            name,
            context,
            trace.SpanKind[kind.upper()],
            _given(attributes),
            start_time=None if start_ms is None else start_ms * _NS,
        )
        return _Begun(span)


class _Begun:
    def __init__(self, span: trace.Span) -> None:
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, trace.set_span_in_context(span, Context()))
        self.traceparent = carrier.get("traceparent")
        self._span = span

    def end(self, *, failed: bool = False, end_ms: int | None = None, **attributes: Value | None) -> None:
        self._span.set_attributes(_given(attributes))
        if failed:
            self._span.set_status(trace.StatusCode.ERROR)
        self._span.end(None if end_ms is None else end_ms * _NS)


def to_collector(endpoint: str, process: str, environment: str) -> Traces:
    """Traces that go to a collector, in batches and by a thread."""
    return Telemetry(OTLPSpanExporter(endpoint.rstrip("/") + "/v1/traces"), process, environment, at_once=False)


def _given(attributes: dict[str, Value | None]) -> dict[str, Value]:
    """Under our own prefix, without those that are None."""
    return {f"textgen.{name}": value for name, value in attributes.items() if value is not None}
