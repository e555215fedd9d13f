"""The comparison as a picture.

    python -m benchmarks.plot benchmarks/results/engine-….json picture.svg      # or .png

A column for each shape: bars of tokens a second for all requests at once; below, for requests that arrive over time, what a
reader waits: for half of the requests (left end) and for 95% of them (right end).
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # no display, and no backend of the one who runs it

from matplotlib.axes import Axes  # after the line above
from matplotlib.figure import Figure

from benchmarks.engines.contender import ARRIVALS, TOGETHER
from benchmarks.report import MODELS

TITLES = {
    "naive": "generate,\none by one",
    "static": "generate,\none batch",
    "cb": "transformers'\ncontinuous batching",
    "vllm-eager": "vLLM, eager",
    "vllm": "vLLM, compiled",
    "ours": "SmartTextGen",
}
# Okabe and Ito's blue for ours (seen apart by every eye, and darker in print), grey for the others.
OURS, OTHERS, INK, FAINT = "#0072B2", "#A7ADB3", "#22262A", "#6B7278"
WAITS = (
    ("first", 1, "until the first token, s"),
    ("gap", 1000, "between tokens, ms"),
    ("latency", 1, "until the last token, s"),
)


def draw(report: dict[str, Any], path: Path) -> None:
    """Write the picture; the suffix of ``path`` says in which form."""
    shapes = report["shapes"]
    streaming = any(part["arrivals"] for part in shapes.values())
    most = max(len(part["engines"]) for part in shapes.values())
    served = max(len(_served(part)) for part in shapes.values())
    heights = [0.36 * most] + [0.29 * served] * (len(WAITS) if streaming else 0)
    figure = Figure(figsize=(1.8 + 3.9 * len(shapes), sum(heights) + 0.45 * len(heights) + 1.1))
    grid = figure.subplots(len(heights), len(shapes), squeeze=False, gridspec_kw={"height_ratios": heights})
    for column, (shape, part) in enumerate(shapes.items()):
        _bars(grid[0, column], part, MODELS[shape])
        if part["arrivals"]:
            for row, (wait, scale, title) in enumerate(WAITS, start=1):
                lead = f"{_arriving(part)}\n" if row == 1 else ""
                _ranges(grid[row, column], part, wait, scale, f"{lead}Wait {title}")
        for row, axes in enumerate(grid[:, column]):
            _plain(axes, labels=column == 0, zero=row == 0)
    caption = (
        "Greedy, float32, random weights. Medians of the rounds, the line at a bar's end: "
        f"least and most. Waits on a log scale. {report['machine']}, {report['date'][:10]}."
    )
    figure.text(0.01, 0.008, caption, fontsize=7.5, color=FAINT)
    figure.tight_layout(rect=(0, 0.02, 1, 1), h_pad=1.2, w_pad=1.6)
    with mpl.rc_context({"svg.hashsalt": "bench"}):
        figure.savefig(path, dpi=160, facecolor="white", metadata={"Date": None} if path.suffix == ".svg" else None)


def _served(part: dict[str, Any]) -> dict[str, Any]:
    """The engines that served arrivals, and their figures."""
    return {name: each[ARRIVALS] for name, each in part["engines"].items() if each[ARRIVALS]}


def _arriving(part: dict[str, Any]) -> str:
    return f"{part['arrivals']['rate']:.1f} requests arriving a second; ○ half, ● 95% of waits"


def _bars(axes: Axes, part: dict[str, Any], model: str) -> None:
    engines = part["engines"]
    rates = {name: each[TOGETHER]["tokens_per_s"] for name, each in engines.items()}
    base = rates["naive"]["median"] if "naive" in rates else None
    longest = max(rate["max"] for rate in rates.values())
    for at, (name, rate) in enumerate(rates.items()):
        axes.barh(at, rate["median"], height=0.66, color=_color(name))
        if rate["min"] < rate["max"]:
            axes.hlines(at, rate["min"], rate["max"], color=INK, linewidth=1)
        text = f"{rate['median']:.0f}" + (f"  ({rate['median'] / base:.1f}×)" if base and name != "naive" else "")
        axes.text(rate["max"] + 0.015 * longest, at, text, va="center", fontsize=8.5, color=INK, weight=_weight(name))
    _engine_names(axes, list(rates))
    axes.set_xlim(0, 1.28 * longest)
    axes.set_title(f"{model}\n", loc="left", fontsize=11, color=INK, weight="bold", pad=2)
    axes.text(
        0,
        1.03,
        f"Tokens per second, {part['workload']['requests']} requests at once",
        fontsize=9,
        color=INK,
        transform=axes.transAxes,
    )


def _ranges(axes: Axes, part: dict[str, Any], wait: str, scale: float, title: str) -> None:
    served = _served(part)
    ends = {name: [scale * each[f"{wait}_p{share}"]["median"] for share in (50, 95)] for name, each in served.items()}
    shortest, longest = min(low for low, _ in ends.values()), max(high for _, high in ends.values())
    axes.set_xscale("log")  # where one engine cannot keep up, the others would be one point
    for at, (name, (low, high)) in enumerate(ends.items()):
        axes.hlines(at, low, high, color=_color(name), linewidth=3.5)
        axes.plot([low], [at], "o", color="white", markeredgecolor=_color(name), markeredgewidth=1.8, markersize=6)
        axes.plot([high], [at], "o", color=_color(name), markersize=7)
        text = " · ".join(f"{value:.0f}" if scale > 1 else _three_digits(value) for value in (low, high))
        axes.annotate(
            text,
            (high, at),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=INK,
            weight=_weight(name),
        )
    _engine_names(axes, list(ends))
    # From a little before the least, with room for the longest one's numbers.
    decades = math.log10(longest / shortest) + 0.1
    axes.set_xlim(shortest / 10 ** (0.08 * decades), longest * 10 ** (0.35 * decades))
    axes.set_title(title, loc="left", fontsize=9, color=INK, pad=3)


def _engine_names(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), [TITLES[name] for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)


def _plain(axes: Axes, *, labels: bool, zero: bool) -> None:
    """No frame, no ticks: the numbers stand beside the marks. ``zero``: a line where the bars begin."""
    for side in ("top", "right", "bottom", *(() if zero else ("left",))):
        axes.spines[side].set_visible(False)
    axes.spines["left"].set_color(FAINT)
    axes.xaxis.set_visible(False)
    axes.tick_params(axis="y", length=0, labelsize=8.5, labelcolor=INK, labelleft=labels)


def _color(name: str) -> str:
    return OURS if name == "ours" else OTHERS


def _weight(name: str) -> str:
    return "bold" if name == "ours" else "normal"


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
