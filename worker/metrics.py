"""What a worker tells Prometheus, under vLLM's names where there is one, so that boards made for vLLM work.

The engine only counts; here its snapshots become metrics, when Prometheus asks. Labels are the model and fixed words,
never a job or a user.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from shared.job import Job, JobStatus, Outcome
from shared.metrics import MetricsPort
from worker.engine.protocol import Engine, EngineStats

MODEL = "model_name"
REQUEST_S = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
FIRST_TOKEN_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
)  # fmt: skip
CANCEL_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
ATTEMPT_ENDS = (*(status.value for status in JobStatus if status.ended), "handed_back", "fenced")
FINISH_REASONS = {"stop": "stop", "length": "length", "canceled": "abort"}
"""Ours → vLLM's."""


class WorkerMetrics:
    """The metrics of one worker process. ``watch`` an engine, open the ``port``, and tell of each attempt."""

    def __init__(self, model: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._model = model
        self.port = MetricsPort(self.registry)
        attempts = self._counter("textgen_attempts", "Attempts at jobs that ended, by how.", "end")
        self.attempts = {end: attempts.labels(model, end) for end in ATTEMPT_ENDS}
        finished = self._counter(
            "vllm:request_success", "Jobs that brought an answer, by why it ended.", "finished_reason"
        )
        self.finished = {reason: finished.labels(model, name) for reason, name in FINISH_REASONS.items()}
        cache = self._counter(
            "textgen_cache_lookups", "Jobs that may come from the result cache, by whether.", "result"
        )
        self.cache = {result: cache.labels(model, result) for result in ("hit", "miss")}
        self.queue_s = self._histogram(
            "vllm:request_queue_time_seconds", "From submit to claim, first attempts.", REQUEST_S
        )
        self.first_token_s = self._histogram(
            "vllm:time_to_first_token_seconds",
            "From submit to the first token; later attempts from their claim.",
            FIRST_TOKEN_S,
        )
        self.end_to_end_s = self._histogram(
            "vllm:e2e_request_latency_seconds", "From submit to the end; later attempts from their claim.", REQUEST_S
        )
        self.cancel_s = self._histogram(
            "textgen_cancel_latency_seconds", "From the order to stop a running job to its stop.", CANCEL_S
        )

    def _counter(self, name: str, text: str, label: str) -> Counter:
        return Counter(name, text, [MODEL, label], registry=self.registry)

    def _histogram(self, name: str, text: str, bounds: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, [MODEL], buckets=bounds, registry=self.registry).labels(self._model)

    def watch(self, engine: Engine) -> None:
        """Tell of this engine from now on. Before, and while it loads, it counts as not healthy."""
        self.registry.register(EngineCollector(engine, self._model))

    def claimed(self, job: Job) -> Watch:
        """An attempt begins."""
        return Watch(self, job)


class Watch:
    """Follows one attempt. Its methods are called as things happen; ``stopped`` from any thread."""

    def __init__(self, metrics: WorkerMetrics, job: Job) -> None:
        self._metrics = metrics
        self._claimed_at = self._submitted_at = time.monotonic()
        self._stopped_at: float | None = None
        self._lock = threading.Lock()
        self._waited_s = 0.0
        # A retried job was submitted long ago, and one that lost its worker has run: only of a first attempt it is the wait.
        if job.attempt == 1 and job.queue_time_ms is not None:
            self._waited_s = job.queue_time_ms / 1000
            metrics.queue_s.observe(self._waited_s)

    def looked_up(self, *, hit: bool) -> None:
        """The result cache was asked."""
        self._metrics.cache["hit" if hit else "miss"].inc()

    def submitted(self) -> None:
        """The engine is about to get it."""
        self._submitted_at = time.monotonic()

    def stopped(self) -> None:
        """It is to stop."""
        with self._lock:
            self._stopped_at = self._stopped_at or time.monotonic()

    def generated(self, first_token_s: float | None) -> None:
        """The engine is done with it, whole or stopped short."""
        if first_token_s is not None:
            before = self._submitted_at - self._claimed_at
            self._metrics.first_token_s.observe(self._waited_s + before + first_token_s)
        if self._stopped_at is not None:
            self._metrics.cancel_s.observe(time.monotonic() - self._stopped_at)

    def ended(self, outcome: Outcome, *, accepted: bool) -> None:
        """Its end was offered to the store."""
        self._metrics.attempts[outcome.status.value if accepted else "fenced"].inc()
        if not accepted:
            return
        self._metrics.end_to_end_s.observe(self._waited_s + time.monotonic() - self._claimed_at)
        if outcome.choices:
            reasons = [choice.finish_reason for choice in outcome.choices]
            self._metrics.finished["canceled" if "canceled" in reasons else reasons[0]].inc()

    def handed_back(self) -> None:
        """It waits again."""
        self._metrics.attempts["handed_back"].inc()


class EngineCollector(Collector):
    """An engine's snapshot as metrics."""

    def __init__(self, engine: Engine, model: str) -> None:
        self._engine = engine
        self._model = model

    def collect(self) -> Iterable[Metric]:
        healthy = self._engine.healthy()
        yield self._gauge(
            "textgen_engine_healthy", "1 while the engine is loaded, lives, and its state is sound.", healthy
        )
        if healthy:
            yield from self._stats(self._engine.stats())

    def _stats(self, stats: EngineStats) -> Iterator[Metric]:
        yield self._gauge("vllm:num_requests_running", "Sequences in the running batch.", stats.running)
        yield self._gauge(
            "vllm:num_requests_waiting", "Requests that the engine has and does not run yet.", stats.waiting
        )
        yield self._gauge(
            "vllm:kv_cache_usage_perc", "Share of the room for keys and values in use; 1 is all.", stats.kv_cache_usage
        )
        yield self._counter("vllm:prompt_tokens", "Prompt tokens computed.", stats.prompt_tokens)
        yield self._counter("vllm:generation_tokens", "Tokens generated.", stats.generated_tokens)
        yield self._counter(
            "vllm:num_preemptions", "Times a request left the batch because memory was short.", stats.preemptions
        )
        yield self._counter(
            "vllm:prefix_cache_queries", "Prompt tokens that may have been computed before.", stats.reused.queries
        )
        yield self._counter("vllm:prefix_cache_hits", "Those that had been, and were not again.", stats.reused.hits)
        yield self._gauge(
            "textgen_prefix_cache_bytes", "Keys and values kept for prompts to come.", stats.reused.held_bytes
        )
        yield self._counter("textgen_engine_steps", "Steps of the engine.", stats.steps)
        gaps = stats.token_gaps
        if gaps.counts:
            yield self._histogram(
                "vllm:inter_token_latency_seconds",
                "Time between two tokens of a sequence.",
                gaps.bounds_s,
                gaps.counts,
                gaps.sum_s,
            )
        if stats.step_rows:
            bounds = _powers_of_two(len(stats.step_rows) - 1)
            rows = float(sum(size * count for size, count in enumerate(stats.step_rows)))
            yield self._histogram(
                "textgen_step_rows", "Sequences in a step.", bounds, _by(bounds, stats.step_rows), rows
            )
        memory = self._engine.device_memory()
        if memory is not None:
            family = GaugeMetricFamily(
                "textgen_device_memory_bytes",
                "Memory of the device (on a CPU: this process's, of the machine's).",
                labels=[MODEL, "kind"],
            )
            family.add_metric([self._model, "used"], memory.used)
            family.add_metric([self._model, "total"], memory.total)
            yield family

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(name, text, labels=[MODEL])
        family.add_metric([self._model], value)
        return family

    def _counter(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(name, text, labels=[MODEL])
        family.add_metric([self._model], value)
        return family

    def _histogram(
        self, name: str, text: str, bounds: Iterable[float], counts: Iterable[int], total: float
    ) -> HistogramMetricFamily:
        """counts: of each bucket alone; the last one is beyond every bound."""
        family = HistogramMetricFamily(name, text, labels=[MODEL])
        names = [*(str(float(bound)) for bound in bounds), "+Inf"]
        family.add_metric([self._model], [*zip(names, map(float, accumulate(counts)), strict=True)], total)
        return family


def _powers_of_two(most: int) -> tuple[int, ...]:
    return tuple(1 << power for power in range(most.bit_length() + 1))


def _by(bounds: tuple[int, ...], sizes: tuple[int, ...]) -> list[int]:
    """Counts of sizes 0, 1, 2, … in buckets."""
    counts = [0] * (len(bounds) + 1)
    for size, count in enumerate(sizes):
        counts[next((at for at, bound in enumerate(bounds) if size <= bound), len(bounds))] += count
    return counts
