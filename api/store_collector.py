"""The store's figures as metrics, asked for when Prometheus does.

Every replica of the API tells the same figures: queries take ``max``, never ``sum``, over instances.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from shared.errors import SmartTextGenError
from shared.store.figures import EtaErrors, Figures, QueueFigures, WebhookFigures
from shared.store.protocol import JobStore

log = structlog.get_logger(__name__)

MEMORY_S = 1.0
"""A storm of scrapes costs Redis one operation in this time, for each process."""
STATES = ("ready", "draining")


class StoreCollector(Collector):
    """Metrics of the store. ``default_model``: has figures also before anybody named it. ``tenants``: who is told apart.

    Where the store is away nothing is told but ``textgen_redis_up 0``: old figures would look like a calm house.
    """

    def __init__(
        self,
        store: JobStore,
        default_model: str,
        tenants: Sequence[str] = (),
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._default = default_model
        self._tenants = tenants
        self._clock = clock
        self._lock = threading.Lock()
        self._asked_at = float("-inf")
        self._figures: Figures | None = None

    def collect(self) -> Iterable[Metric]:
        figures = self._now()
        up = GaugeMetricFamily("textgen_redis_up", "1 where the store answers.")
        up.add_metric([], 0 if figures is None else 1)
        yield up
        if figures is None:
            return
        yield from _jobs(figures)
        yield from self._queues(figures)
        yield self._workers(figures)
        yield from _webhooks(figures.webhooks)
        if self._tenants:
            yield from _tenants(figures)

    def _now(self) -> Figures | None:
        """The figures, at most a memory old; None where the store is away (remembered as long)."""
        with self._lock:
            if self._clock() - self._asked_at >= MEMORY_S:
                try:
                    self._figures = self._store.figures(self._tenants)
                except SmartTextGenError as error:
                    log.warning("no figures", code=error.code)
                    self._figures = None
                self._asked_at = self._clock()
            return self._figures

    def _queues(self, figures: Figures) -> Iterator[Metric]:
        waiting = _gauge("textgen_jobs_waiting", "Jobs that wait, in lines and in the window.", "model_name")
        lines = _gauge("textgen_jobs_in_lines", "Jobs that wait in lines.", "model_name", "priority")
        running = _gauge("textgen_jobs_running", "Jobs that run on workers.", "model_name")
        oldest = _gauge("textgen_oldest_waiting_seconds", "How long the oldest waiting job has waited.", "model_name")
        slots = _gauge("textgen_slots", "Slots of the ready workers.", "model_name")
        paused = _gauge("textgen_queue_paused", "1 where an operator has paused the queue.", "model_name")
        errors = HistogramMetricFamily(
            "textgen_eta_error_seconds",
            "How far off the ETA at submit was when the job started.",
            labels=["model_name"],
        )
        for model, queue in sorted({self._default: _EMPTY, **figures.queues}.items()):
            waiting.add_metric([model], queue.waiting)
            for priority, count in queue.lines.items():
                lines.add_metric([model, priority], count)
            running.add_metric([model], queue.running)
            oldest.add_metric([model], queue.oldest_s)
            slots.add_metric([model], queue.slots)
            paused.add_metric([model], int(queue.paused))
            if queue.eta_errors.within:
                errors.add_metric([model], _buckets(queue.eta_errors), queue.eta_errors.sum_s)
        yield from (waiting, lines, running, oldest, slots, paused, errors)

    def _workers(self, figures: Figures) -> Metric:
        """With a zero where there is none, so that an alert finds it."""
        workers = _gauge("textgen_workers", "Workers with a live lease.", "model_name", "state")
        models = {self._default, *figures.queues, *(model for model, _ in figures.workers)}
        for model in sorted(models):
            for state in STATES:
                workers.add_metric([model, state], figures.workers.get((model, state), 0))
        return workers


_EMPTY = QueueFigures(
    0, dict.fromkeys(("high", "normal", "low"), 0), 0, 0, paused=False, oldest_s=0, eta_errors=EtaErrors((), 0, 0)
)


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=labels)


def _counter(name: str, text: str, value: int) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, value=value)


def _jobs(figures: Figures) -> Iterator[Metric]:
    ended = CounterMetricFamily("textgen_jobs_ended_total", "Jobs that ended, by how.", labels=["status"])
    for status, count in figures.ended.items():
        ended.add_metric([status], count)
    yield ended
    yield _counter("textgen_lease_expiries_total", "Workers found gone.", figures.events["leases_expired"])
    yield _counter(
        "textgen_jobs_requeued_total", "Jobs that lost their worker and waited again.", figures.events["requeued"]
    )
    yield _counter("textgen_hints_resent_total", "Hints that got lost and were sent again.", figures.events["resent"])
    yield GaugeMetricFamily("textgen_dead_letters", "Convicted jobs that are kept.", value=figures.dead_letters)


def _webhooks(webhooks: WebhookFigures) -> Iterator[Metric]:
    yield GaugeMetricFamily("textgen_couriers", "Couriers that are there.", value=webhooks.couriers)
    yield GaugeMetricFamily("textgen_webhook_outbox", "Messages that no courier has taken up.", value=webhooks.outbox)
    yield GaugeMetricFamily("textgen_webhook_receivers_due", "Receivers with a delivery overdue.", value=webhooks.due)
    yield GaugeMetricFamily(
        "textgen_webhook_oldest_seconds",
        "How long the oldest message or overdue delivery has waited for a courier.",
        value=webhooks.oldest_s,
    )


def _tenants(figures: Figures) -> Iterator[Metric]:
    waiting = _gauge("textgen_tenant_jobs_in_lines", "Jobs of a tenant that wait in lines.", "tenant")
    jobs = CounterMetricFamily(
        "textgen_tenant_jobs_total", "Jobs of a tenant that ran; starts anew each day.", labels=["tenant"]
    )
    tokens = CounterMetricFamily(
        "textgen_tenant_tokens_total", "Tokens of a tenant's jobs; starts anew each day.", labels=["tenant", "kind"]
    )
    for name, tenant in sorted(figures.tenants.items()):
        waiting.add_metric([name], tenant.waiting)
        jobs.add_metric([name], tenant.used["jobs"])
        for kind in ("prompt", "completion"):
            tokens.add_metric([name, kind], tenant.used[f"{kind}_tokens"])
    yield from (waiting, jobs, tokens)


def _buckets(errors: EtaErrors) -> list[tuple[str, float]]:
    """Prometheus' cumulative buckets; the last one holds all."""
    return [*((str(bound), float(count)) for bound, count in errors.within), ("+Inf", float(errors.count))]
