"""What a courier tells Prometheus. What waits is told by the API, out of the store."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector

from shared.webhooks import Verdict

TOO_LATE = "too_late"
AGE_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 36_000, 86_400)
ATTEMPT_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30)


class CourierMetrics:
    """The metrics of one courier process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._attempts = Counter(
            "textgen_webhook_attempts",
            "Attempts at deliveries, by what they came to; again: tried later, back: by another courier.",
            ["verdict"],
            registry=self.registry,
        )
        for verdict in (*Verdict, TOO_LATE):
            self._attempts.labels(str(verdict))
        self._seconds = Histogram(
            "textgen_webhook_attempt_seconds", "Length of an attempt.", buckets=ATTEMPT_S, registry=self.registry
        )
        self._age = Histogram(
            "textgen_webhook_delivery_age_seconds",
            "From an event to its delivery.",
            buckets=AGE_S,
            registry=self.registry,
        )

    def attempted(self, verdict: str, seconds: float, age_s: float) -> None:
        """An attempt is over. ``age_s``: how long ago happened what it tells."""
        self._attempts.labels(verdict).inc()
        self._seconds.observe(seconds)
        if verdict == Verdict.DELIVERED:
            self._age.observe(max(0.0, age_s))
