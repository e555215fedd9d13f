"""What vLLM counts at each step, kept for whoever makes metrics of it."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

from vllm.v1.metrics.loggers import StatLoggerBase

from worker.engine.protocol import TokenGaps
from worker.engine.tally import GAP_BOUNDS_S


class VllmTally(StatLoggerBase):  # type: ignore[misc]  # vLLM is not there where types are checked
    """Counts of one vLLM since its start: a logger of its own kind. Written by the engine's thread alone."""

    def __init__(self) -> None:
        self.steps = self.prompt_tokens = self.preemptions = self.prefix_queries = self.prefix_hits = 0
        self.kv_cache_usage = 0.0
        self._rows: list[int] = []
        self._gaps = [0] * (len(GAP_BOUNDS_S) + 1)
        self._gaps_s = 0.0

    def log_engine_initialized(self) -> None:
        return

    def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
        """A step is over. ``scheduler_stats``: vLLM's SchedulerStats, None for news that came of no step.
        ``iteration_stats``: vLLM's IterationStats, None where no row got a token."""
        if scheduler_stats is not None:
            self.steps += 1
            self.kv_cache_usage = scheduler_stats.kv_cache_usage
            self.prefix_queries += scheduler_stats.prefix_cache_stats.queries
            self.prefix_hits += scheduler_stats.prefix_cache_stats.hits
        if iteration_stats is None:
            return
        self.preemptions += iteration_stats.num_preempted_reqs
        self.prompt_tokens += iteration_stats.prompt_token_stats.computed
        for gap in iteration_stats.inter_token_latencies_iter:
            self._gaps[bisect_left(GAP_BOUNDS_S, gap)] += 1
            self._gaps_s += gap
        rows = len(iteration_stats.inter_token_latencies_iter) + len(iteration_stats.time_to_first_tokens_iter)
        self._rows.extend([0] * (rows + 1 - len(self._rows)))
        self._rows[rows] += 1

    @property
    def step_rows(self) -> tuple[int, ...]:
        return tuple(self._rows)

    def gaps(self) -> TokenGaps:
        """A snapshot."""
        return TokenGaps(GAP_BOUNDS_S, tuple(self._gaps), self._gaps_s)
