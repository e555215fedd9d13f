"""From runs to figures: percentiles within a run, medians over the rounds, ratios within the comparison."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.engines.contender import ARRIVALS, TOGETHER

Run = dict[str, Any]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that ``share`` (0 to 1) of all are at most."""
    return sorted(values)[max(1, math.ceil(share * len(values))) - 1]


def of_run(run: Run) -> dict[str, float]:
    """The figures of one run: tokens a second, and for arrivals the seconds that readers waited.

    ``first``: from when a request was due to its first token. ``gap``: between two deliveries to a reader. ``latency``: from when
    a request was due to its last token.
    """
    tokens = sum(map(len, run["outputs"]))
    figures = {
        "tokens_per_s": tokens / run["seconds"],
        "tokens_per_cpu_s": tokens / run["cpu_seconds"],
        "peak_bytes": float(run["peak_bytes"]),
    }
    if run["workload"] == TOGETHER:
        return figures
    streams = run["streams"]
    waits = {
        "first": [stream["times"][0] - stream["due"] for stream in streams],
        "gap": [
            later - now for stream in streams for now, later in zip(stream["times"], stream["times"][1:], strict=False)
        ],
        "latency": [stream["times"][-1] - stream["due"] for stream in streams],
    }
    for name, values in waits.items():
        figures |= {f"{name}_p{share}": percentile(values, share / 100) for share in (50, 95, 99)}
    deliveries = sum(len(stream["times"]) for stream in streams)
    return figures | {"tokens_per_delivery": tokens / deliveries}


def of_engine(runs: Iterable[Run], workload: str) -> dict[str, Any] | None:
    """Each figure's median, least and most over the rounds; None where it did not run this workload."""
    these = [run for run in runs if run["workload"] == workload]
    if not these:
        return None
    each = [of_run(run) for run in these]
    spread = {
        name: {"median": statistics.median(values), "min": min(values), "max": max(values)}
        for name in each[0]
        for values in [[figures[name] for figures in each]]
    }
    return {"rounds": len(these), "requests": len(these[0]["outputs"])} | spread


def requests_per_s(runs: Iterable[Run]) -> float:
    """W's requests a second, the median of the rounds."""
    return statistics.median(len(run["outputs"]) / run["seconds"] for run in runs if run["workload"] == TOGETHER)


def summarize(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """By engine, in the order of their first runs: both workloads' figures."""
    engines = dict.fromkeys(run["engine"] for run in runs)
    return {
        engine: {
            workload: of_engine([run for run in runs if run["engine"] == engine], workload)
            for workload in (TOGETHER, ARRIVALS)
        }
        for engine in engines
    }
