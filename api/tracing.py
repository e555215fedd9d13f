"""Request ids: taken or made, on every log line, on the hint and on the answer; and one log line a request."""

from __future__ import annotations

import re
import time
import uuid

import structlog
from flask import Flask, Response, current_app, g, request

from shared.spans import NoTraces, Span, Traces

log = structlog.get_logger(__name__)

EXTENSION = "smarttextgen-traces"
UNTRACED = frozenset({"metrics", "health", "livez", "readyz", "static"})
"""Endpoints that are asked every few seconds."""
SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""W3C Trace Context; other versions may go on after it, which we do not pass along."""


def request_id() -> str:
    """The id of the request that is being handled."""
    found: str = g.request_id
    return found


def traceparent() -> str | None:
    """The trace that the request belongs to, where it said so."""
    found: str | None = g.traceparent
    return found


def _begin() -> None:
    given = request.headers.get("X-Request-Id", "")
    g.request_id = given if SAFE_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"
    g.started = time.perf_counter()
    parent = TRACEPARENT.fullmatch(request.headers.get("traceparent", ""))
    g.span = _start_span(parent[0] if parent else None)
    g.traceparent = g.span.traceparent
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=g.request_id)
    trace = TRACEPARENT.fullmatch(g.traceparent or "")
    if trace:
        structlog.contextvars.bind_contextvars(traceparent=trace[0], trace_id=trace[1])


def _start_span(parent: str | None) -> Span:
    traces: Traces = current_app.extensions[EXTENSION]
    if request.endpoint in UNTRACED:
        traces = NoTraces()
    return traces.start(
        f"{request.method} {request.url_rule or 'unmatched'}", "server", parent, request_id=g.request_id
    )


def _end(response: Response) -> Response:
    response.headers["X-Request-Id"] = g.request_id
    if g.traceparent:
        response.headers["traceparent"] = g.traceparent
    named = {name: value for name, value in (request.view_args or {}).items() if name in ("job_id", "batch_id")}
    log.info(
        "request",
        method=request.method,
        # The rule and not the path: a path may hold a user's id.
        route=str(request.url_rule) if request.url_rule else None,
        status=response.status_code,
        duration_ms=round((time.perf_counter() - g.started) * 1000, 1),
        **named,
    )
    named = structlog.contextvars.get_contextvars() | named
    g.span.end(failed=response.status_code >= 500, status=response.status_code, job_id=named.get("job_id"))
    return response


def _forget(_error: BaseException | None) -> None:
    """What the server itself logs next on this thread (a request that is hardly HTTP) is of nobody."""
    structlog.contextvars.clear_contextvars()


def register_tracing(app: Flask, traces: Traces) -> None:
    """Has to be registered first, so that errors of later checks carry an id as well."""
    app.extensions[EXTENSION] = traces
    app.before_request(_begin)
    app.after_request(_end)
    app.teardown_request(_forget)
