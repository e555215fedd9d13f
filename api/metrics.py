"""What the API tells Prometheus: its own requests, and what the store knows of jobs, queues and workers.

Under gunicorn each process writes its counts to files that any of them can answer from (prometheus_client's multiprocess
mode, which has no ``process_*`` metrics); ``python -m api`` makes a fresh folder for them at each start.
"""

from __future__ import annotations

import time

from flask import Flask, Response, g, request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.values import MutexValue, ValueClass

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
UNMATCHED = "unmatched"
"""The handler of requests that no route takes. A path is never a label: it holds ids."""
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class HttpMetrics:
    """Counts of one app's requests. ``collectors``: what else is told, asked at each scrape."""

    def __init__(self, *collectors: Collector) -> None:
        self._own = CollectorRegistry()
        self._collectors = collectors
        self._requests = Counter(
            "http_requests_total", "Requests answered.", ["handler", "method", "status"], registry=self._own
        )
        self._seconds = Histogram(
            "http_request_duration_seconds",
            "Time from a request's head to its answer's; long polls include the wait, streams end with their first byte.",
            ["handler", "method"],
            buckets=SECONDS,
            registry=self._own,
        )
        self._refused = Counter(
            "textgen_auth_failures_total",
            "Requests without a valid key (unauthenticated) or without the scope (forbidden).",
            ["reason"],
            registry=self._own,
        )
        for reason in ("unauthenticated", "forbidden"):
            self._refused.labels(reason)
        self._streams = self._gauge("textgen_open_streams", "Event streams that are open now.")
        self._polls = self._gauge("textgen_open_long_polls", "Requests that wait for a job's end now.")

    def _gauge(self, name: str, text: str) -> Gauge:
        gauge = Gauge(name, text, registry=self._own, multiprocess_mode="livesum")
        gauge.set(0)
        return gauge

    def stream(self, change: int) -> None:
        """So many more are open now (or fewer)."""
        self._streams.inc(change)

    def long_poll(self, change: int) -> None:
        """So many more wait now (or fewer)."""
        self._polls.inc(change)

    def answered(self, response: Response) -> Response:
        """Count a request by its route; to be called after each."""
        handler = str(request.url_rule) if request.url_rule else UNMATCHED
        method = request.method if request.method in METHODS else "other"
        self._requests.labels(handler, method, str(response.status_code)).inc()
        self._seconds.labels(handler, method).observe(time.perf_counter() - g.started)
        if response.status_code in (401, 403):
            self._refused.labels("unauthenticated" if response.status_code == 401 else "forbidden").inc()
        return response

    def exposition(self) -> tuple[bytes, str]:
        """Body and media type of an answer to Prometheus: the counts of all processes of this server, and the rest."""
        registry = self._own
        if ValueClass is not MutexValue:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # it has no annotations
        told = generate_latest(registry)
        for collector in self._collectors:
            further = CollectorRegistry()
            further.register(collector)
            told += generate_latest(further)
        return told, CONTENT_TYPE_LATEST


def register_metrics(app: Flask, metrics: HttpMetrics) -> None:
    """Has to be registered after the tracing, whose clock it reads."""
    app.after_request(metrics.answered)
