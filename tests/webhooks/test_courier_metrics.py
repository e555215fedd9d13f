"""What a courier tells Prometheus."""

from __future__ import annotations

from prometheus_client import generate_latest

from tests.api.test_metrics import samples
from worker.courier.metrics import TOO_LATE, CourierMetrics


def test_attempts_by_verdict_and_the_age_of_what_was_delivered():
    metrics = CourierMetrics()

    def told(name: str, **labels: str) -> float:
        return samples(generate_latest(metrics.registry).decode())[name, frozenset(labels.items())]

    for verdict in ("delivered", "again", "failed", "back", TOO_LATE):
        assert told("textgen_webhook_attempts_total", verdict=verdict) == 0
    metrics.attempted("again", 0.3, 1)
    metrics.attempted("delivered", 0.02, 7)
    assert told("textgen_webhook_attempts_total", verdict="delivered") == 1
    assert told("textgen_webhook_attempt_seconds_count") == 2
    assert told("textgen_webhook_delivery_age_seconds_sum") == 7
