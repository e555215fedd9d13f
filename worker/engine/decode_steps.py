"""A decoding step for each batch size: on a GPU replayed as a CUDA graph, elsewhere just called.

A model of 32 layers launches over a thousand kernels a step, each of which costs the host longer than the device: recorded once and
replayed, they cost one launch. A graph is bound to its batch size and to the addresses that it read and wrote, so there is one
for each of some sizes, and steps are filled up to the next.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import torch

logger = logging.getLogger(__name__)

Output = tuple[torch.Tensor, ...]

_WARM_RUNS = 2  # before a capture: what a kernel sets up when first called must not be recorded


def buckets(rows: int) -> list[int]:
    """Sizes up to ``rows``: fine where a step is short, coarser where it is long anyway."""
    sizes = [1, 2, 4, *range(8, 64, 8), *range(64, 128, 16), *range(128, rows, 32)]
    return [*(size for size in sizes if size < rows), rows]


class DecodeSteps:
    """``compute`` makes a step of a given size from inputs at fixed addresses."""

    def __init__(self, compute: Callable[[int], Output], rows: int) -> None:
        self._compute = compute
        self._sizes = buckets(rows)
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Output]] = {}

    @property
    def captured(self) -> int:
        return len(self._graphs)

    def size_for(self, rows: int) -> int:
        return self._sizes[bisect_left(self._sizes, rows)]

    def run(self, size: int) -> Output:
        """What ``compute`` returns. On a GPU it is overwritten by the next step."""
        recorded = self._graphs.get(size)
        if recorded is None:
            return self._compute(size)
        graph, output = recorded
        graph.replay()
        return output

    def capture(self) -> None:
        """Record every size, the largest first so that the smaller ones find its memory free again."""
        started, pool = time.perf_counter(), torch.cuda.graph_pool_handle()
        for size in reversed(self._sizes):
            self._graphs[size] = self._record(size, pool)
        logger.info("%d CUDA graphs recorded in %.1f s.", len(self._graphs), time.perf_counter() - started)

    def forget(self) -> None:
        """Go back to plain calls."""
        self._graphs.clear()

    def _record(self, size: int, pool: Any) -> tuple[torch.cuda.CUDAGraph, Output]:
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARM_RUNS):
                self._compute(size)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Other threads ask the device for its memory meanwhile, which only this mode allows.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            output = self._compute(size)
        return graph, output
