"""What the loop counts at each step, as cheaply as it can: whoever makes metrics of it reads snapshots."""

from __future__ import annotations

import time
from bisect import bisect_left

from worker.engine.protocol import TokenGaps
from worker.engine.scheduler import StepPlan
from worker.engine.sequence import Row

GAP_BOUNDS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10, 20, 40, 80,
)  # fmt: skip


class Tally:
    """Counts of one engine since its start. Written by the engine's thread alone."""

    def __init__(self, slots: int) -> None:
        self.steps = self.prompt_tokens = self.generated_tokens = 0
        self.rows = [0] * (slots + 1)
        self._gaps = [0] * (len(GAP_BOUNDS_S) + 1)
        self._gaps_s = 0.0
        self._last = 0.0

    def count(self, plan: StepPlan, sampled: int) -> None:
        """A step is over. Each row that decodes got its last token with the step before: the time since is its gap. A row that
        goes on after a preemption got it before that."""
        now = time.perf_counter()
        decoding = len(plan.decoding)
        self.steps += 1
        self.generated_tokens += sampled
        self.rows[decoding + len(plan.chunks)] += 1
        if decoding:
            self._count_gap(now - self._last, decoding)
        for chunk in plan.chunks:
            self.prompt_tokens += chunk.end - chunk.start
            if chunk.completes:
                self._count_begun(chunk.row, now)
        self._last = now

    def _count_begun(self, row: Row, now: float) -> None:
        group = row.group
        if group.first_token_at is None:
            group.first_token_at = now
        elif row.output and group.preempted_at is not None:
            self._count_gap(now - group.preempted_at, 1)

    def _count_gap(self, seconds: float, rows: int) -> None:
        self._gaps[bisect_left(GAP_BOUNDS_S, seconds)] += rows
        self._gaps_s += seconds * rows

    def gaps(self) -> TokenGaps:
        """A snapshot."""
        return TokenGaps(GAP_BOUNDS_S, tuple(self._gaps), self._gaps_s)
