"""The slot engine against transformers' own ways, on workload W, in one run.

    python -m benchmarks.engine                       # distilgpt2's shape, three engines, a few minutes on two cores
    python -m benchmarks.engine --shape tiny          # seconds
    python -m benchmarks.engine --engines ours --pack off --slots 32

Engines: ``naive`` calls model.generate once per request, one after the other, as a typical demo does (the first 16
requests only); ``cb`` is transformers' continuous batching, sdpa, 16 requests at once (its best setting here, see
notes.md); ``ours`` is worker.engine. All greedy, float32, end-of-text ignored, random weights from the same file. Each
engine runs in a process of its own, so that its peak memory is its own. Ratios within one run mean something; tokens per
second depend on who else uses the machine. Where others use it heavily, ``--threads 1`` and tokens per second of CPU time
are the steadier figures: two threads spend their time waiting for each other's turn.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.workload import SHAPES, make_workload, totals

RESULTS = Path(__file__).parent / "results"

Outputs = list[list[int]]


def main() -> None:
    """Run the engines that were asked for, print the table, write the JSON."""
    options = _parse()
    options.folder.mkdir(parents=True, exist_ok=True)
    _run_child(options, "prepare")
    runs: list[dict[str, Any]] = []
    for repeat in range(options.repeats):
        runs += [_run_child(options, engine) | {"repeat": repeat} for engine in options.engines.split(",")]
    report = _report(options, runs)
    _print(report)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"engine-{options.shape}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\nwritten: {path}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=sorted(SHAPES), default="gpt2", help="the model's size (default: gpt2, 82M)")
    parser.add_argument("--engines", default="naive,cb,ours", help="comma-separated (default: naive,cb,ours)")
    parser.add_argument("--repeats", type=int, default=1, help="rounds over all engines; the best of each counts")
    parser.add_argument("--slots", type=int, default=None, help="ours: rows at once (default: the engine's own)")
    parser.add_argument("--budget", type=int, default=None, help="ours: prompt tokens a step (default: the engine's)")
    parser.add_argument("--pack", choices=("auto", "on", "off"), default="auto", help="ours: weight packing")
    parser.add_argument("--cb-requests", type=int, default=16, help="cb: requests at once (default: 16)")
    parser.add_argument("--cb-tokens", type=int, default=512, help="cb: tokens in one step (default: 512)")
    parser.add_argument("--threads", type=int, default=None, help="torch threads (default: torch's own)")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "smarttextgen-bench")
    return parser.parse_args()


def _run_child(options: argparse.Namespace, engine: str) -> dict[str, Any]:
    """One engine in a fresh process. Raises: SystemExit with its output if it fails."""
    given = json.dumps(
        {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    )
    command = [sys.executable, "-m", "benchmarks.engine_runs", engine, given]
    # The same for all three: threads that spin while they wait measure the neighbours, not the engines.
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        raise SystemExit(f"{engine} failed:\n{done.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def _report(options: argparse.Namespace, runs: list[dict[str, Any]]) -> dict[str, Any]:
    prompt_tokens, output_tokens = totals(make_workload(2))
    best: dict[str, dict[str, Any]] = {}
    for run in runs:
        if run["engine"] not in best or run["tokens_per_s"] > best[run["engine"]]["tokens_per_s"]:
            best[run["engine"]] = run
    agreement = _agreement(best)
    for run in runs:
        run.pop("outputs", None)
    return {
        "shape": options.shape,
        "workload": {"requests": 64, "prompt_tokens": prompt_tokens, "output_tokens": output_tokens},
        "options": {
            name: getattr(options, name) for name in ("slots", "budget", "pack", "cb_requests", "cb_tokens", "threads")
        },
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "load_average": os.getloadavg(),
        "runs": runs,
        "best": best,
        "agreement": agreement,
    }


def _agreement(best: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """How many requests got the same tokens from each other engine as from ours, and where the others part."""
    if "ours" not in best:
        return {}
    ours: Outputs = best["ours"]["outputs"]
    result: dict[str, Any] = {}
    for name, run in best.items():
        pairs = list(zip(run["outputs"], ours, strict=False))
        parted = [
            {"request": at, "at_token": next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)}
            for at, (a, b) in enumerate(pairs)
            if a != b
        ]
        result[name] = {"compared": len(pairs), "same": len(pairs) - len(parted), "parted": parted}
    return result


def _print(report: dict[str, Any]) -> None:
    work = report["workload"]
    print(f"{report['shape']}: {work['requests']} requests, {work['prompt_tokens']} prompt and", end=" ")
    print(f"{work['output_tokens']} output tokens, greedy, float32, load {report['load_average'][0]:.1f}\n")
    print(
        "| engine | requests | tok/s | to naive | to cb | tok/CPU s | to naive | to cb | peak memory | same as ours |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    best = report["best"]
    for name, run in best.items():
        wall, cpu = _ratios(best, run, "tokens_per_s"), _ratios(best, run, "tokens_per_cpu_s")
        same = report["agreement"].get(name, {"same": "-", "compared": "-"})
        print(
            f"| {name} | {run['requests']} | {run['tokens_per_s']:.1f} | {wall} | {run['tokens_per_cpu_s']:.1f} | {cpu} | "
            f"{run['peak_bytes'] / 1e9:.2f} GB | {same['same']}/{same['compared']} |"
        )


def _ratios(best: dict[str, dict[str, Any]], run: dict[str, Any], rate: str) -> str:
    """Two cells: how many times as fast as naive and as cb."""
    return " | ".join(f"{run[rate] / best[o][rate]:.2f}" if o in best else "-" for o in ("naive", "cb"))


if __name__ == "__main__":
    main()
