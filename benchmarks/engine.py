"""Engines compared on the same models and the same requests, in one run: all at once, and arriving at random.

    python -m benchmarks.engine                                   # both shapes, all engines, three rounds: about 25 minutes on two cores
    python -m benchmarks.engine --shapes gpt2 --repeats 1         # 6 minutes
    python -m benchmarks.engine --shapes tiny --requests 8        # a minute: does everything work?
    python -m benchmarks.engine --engines vllm,ours --no-arrivals

Engines: ``naive`` calls model.generate once per request, one after the other, as a typical demo does (the first 8 requests
only); ``static`` gives it all requests as one padded batch; ``cb`` is transformers' continuous batching, sdpa, 16 requests at
once (its best setting here, see notes.md); ``vllm-eager`` and ``vllm`` (compiled) are vLLM on the CPU, where an environment
has it (`make test-vllm` makes one; --vllm-python or VLLM_PYTHON names another); ``ours`` is worker.engine. All greedy, float32,
end-of-text ignored, random weights from the same file. Their answers are compared token by token.

Each run is a process of its own, so that its peak memory is its own; engines take turns within a round, in opposite order in
the next one. The first three have one round (--baseline-repeats). Requests arrive at 70% of what the slower of ours and
vLLM's faster mode did of them at once in the first round (--rate sets it), the same for all engines that can stream.

Ratios within one run mean something; tokens per second depend on who else uses the machine. Writes JSON, a table and a
picture into benchmarks/results; --publish also copies the picture to where the README shows it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.agreement import agreement, plain_gaps
from benchmarks.engines.contender import ARRIVALS, TOGETHER, Task
from benchmarks.processes import ROOT, VLLM_ENGINES, VLLM_PYTHONS, run_engine, vllm_python
from benchmarks.report import markdown
from benchmarks.summary import Run, of_run, requests_per_s, summarize
from benchmarks.workload import SHAPES, make_workload, model_folder, save_model, totals

RESULTS = Path(__file__).parent / "results"
PICTURE = ROOT / "docs" / "images" / "bench-engines.svg"
ENGINES = ("naive", "static", "cb", "vllm-eager", "vllm", "ours")
BASELINES = ("naive", "static", "cb")
WITHOUT_STREAMS = ("naive", "static")
SHARE_OF_CAPACITY = 0.7
PATHS = ("folder", "out", "vllm_python")


def main(arguments: list[str] | None = None) -> None:
    """Measure what was asked for; print the table; write JSON, table and picture."""
    options = _parse(arguments)
    comparison = Comparison(options)
    name = f"engine-{'-'.join(options.shapes)}"
    data = options.out / f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    shapes = {}
    for shape in options.shapes:
        runs, arrivals = comparison.measure(shape)
        shapes[shape] = shape_report(options, shape, runs, arrivals)
        # After each, since what was measured should outlive whatever happens to the next one.
        whole = report(comparison, shapes)
        _write(whole, data, options.out / name)
    if options.publish:
        shutil.copyfile(options.out / f"{name}.svg", PICTURE)
    print(f"\n{markdown(whole)}\nwritten: {data}, {name}.md, {name}.svg")


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--shapes", type=_names(SHAPES), default=["gpt2", "qwen2"], help="of gpt2, qwen2, tiny (default: gpt2,qwen2)")
    add("--engines", type=_names(ENGINES), default=list(ENGINES), help=f"(default: {','.join(ENGINES)})")
    add("--no-arrivals", action="store_true", help="all requests at once only")
    add("--repeats", type=int, default=3, help="rounds of ours and vLLM (default: 3)")
    add("--baseline-repeats", type=int, default=1, help="rounds of naive, static and cb (default: 1)")
    add("--requests", type=int, default=64, help="how many, in both workloads (default: 64)")
    add("--naive-requests", type=int, default=8, help="naive: the first so many (default: 8)")
    add("--rate", type=float, default=None, help="arrivals a second (default: 70%% of capacity)")
    add(
        "--vllm-python", default=None, help=f"Python of vLLM's environment (default: VLLM_PYTHON, or {VLLM_PYTHONS[0]})"
    )
    add("--threads", type=int, default=None, help="torch threads, but for vLLM (default: each engine's own)")
    add("--slots", type=int, default=None, help="ours: rows at once (default: the engine's own)")
    add("--budget", type=int, default=None, help="ours: prompt tokens a step (default: the engine's)")
    add("--pack", choices=("auto", "on", "off"), default="auto", help="ours: weight packing")
    add("--cb-requests", type=int, default=16, help="cb: requests at once (default: 16)")
    add("--cb-tokens", type=int, default=512, help="cb: tokens in one step (default: 512)")
    add("--folder", type=Path, default=Path(tempfile.gettempdir()) / "smarttextgen-bench", help="for models and logs")
    add("--out", type=Path, default=RESULTS, help="for the results (default: benchmarks/results)")
    add("--publish", action="store_true", help=f"copy the picture to {PICTURE.relative_to(ROOT)}")
    return parser.parse_args(arguments)


def _names(known: Any) -> Any:
    """A parser of comma-separated names."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: there are {', '.join(known)}")
        return names

    return parse


@dataclass(frozen=True, slots=True)
class Arrivals:
    """How requests arrive: ``rate`` a second, ``because`` of what."""

    rate: float
    because: str


class Comparison:
    """The runs. ``skipped``: engines that cannot run here, and why."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.python = vllm_python(options.vllm_python)
        self.skipped: dict[str, str] = {}
        if self.python is None:
            reason = "no environment with vLLM; `make test-vllm` makes one, --vllm-python or VLLM_PYTHON names one"
            self.skipped = {engine: reason for engine in options.engines if engine in VLLM_ENGINES}
        self.engines = [engine for engine in options.engines if engine not in self.skipped]
        for engine, reason in self.skipped.items():
            print(f"{engine} is left out: {reason}")

    def measure(self, shape: str) -> tuple[list[Run], Arrivals | None]:
        """All rounds of one shape."""
        self.options.folder.mkdir(parents=True, exist_ok=True)
        save_model(shape, self.options.folder)
        runs: list[Run] = []
        arrivals = None
        for number in range(max(self.options.repeats, self.options.baseline_repeats)):
            order = [engine for engine in self.engines if number < self._rounds(engine)]
            order = order[::-1] if number % 2 else order
            runs += [self._run(shape, engine, TOGETHER, number) for engine in order]
            if not self.options.no_arrivals:
                arrivals = arrivals or self._arrivals(runs)
                left_out = {*WITHOUT_STREAMS, *VLLM_ENGINES} - {faster_vllm([run for run in runs if run["round"] == 0])}
                runs += [
                    self._run(shape, engine, ARRIVALS, number, arrivals.rate)
                    for engine in order
                    if engine not in left_out
                ]
        return runs, arrivals

    def _rounds(self, engine: str) -> int:
        return int(self.options.baseline_repeats if engine in BASELINES else self.options.repeats)

    def _arrivals(self, runs: list[Run]) -> Arrivals:
        """From the first round's requests at once."""
        if self.options.rate:
            return Arrivals(self.options.rate, "as --rate says")
        fast = {"ours", faster_vllm(runs)}
        capacities = {
            run["engine"]: requests_per_s([run])
            for run in runs
            if run["engine"] in fast or (run["engine"] == "cb" and not fast & set(self.engines))
        }
        if not capacities:
            raise SystemExit(
                "No engine that streams is here to say how many requests a second: --rate, or --no-arrivals"
            )
        slowest = min(capacities, key=lambda engine: capacities[engine])
        because = f"{SHARE_OF_CAPACITY:.0%} of what {slowest} did of them at once in the first round"
        return Arrivals(SHARE_OF_CAPACITY * capacities[slowest], because)

    def _run(self, shape: str, engine: str, workload: str, number: int, rate: float = 0.0) -> Run:
        options = self.options
        task = Task(
            engine=engine,
            shape=shape,
            workload=workload,
            folder=str(options.folder),
            result=str(options.folder / f"{engine}-{workload}.json"),
            requests=min(options.requests, options.naive_requests) if engine == "naive" else options.requests,
            rate=rate,
            **{
                name: getattr(options, name)
                for name in ("threads", "slots", "budget", "pack", "cb_requests", "cb_tokens")
            },
        )
        load = os.getloadavg()[0]
        python = self.python if engine in VLLM_ENGINES and self.python else sys.executable
        run = {"engine": engine, "workload": workload, "round": number, "load_average": load} | run_engine(task, python)
        figures = of_run(run)
        print(
            f"{shape}, round {number + 1}, {workload}: {engine} {figures['tokens_per_s']:.1f} tok/s"
            + (f", 95% of answers within {figures['latency_p95']:.2f} s" if workload == ARRIVALS else "")
            + f"; loaded in {run['load_s']:.0f} s, warm in {run['warm_s']:.0f}, ran for {run['seconds']:.0f}; load {load:.1f}",
            flush=True,
        )
        return run


def faster_vllm(runs: list[Run]) -> str | None:
    """The mode of vLLM that gave the most tokens a second at once; None without vLLM."""
    rates = {
        name: requests_per_s(mine) for name in VLLM_ENGINES if (mine := [run for run in runs if run["engine"] == name])
    }
    return max(rates, key=lambda name: rates[name], default=None)


def shape_report(options: argparse.Namespace, shape: str, runs: list[Run], arrivals: Arrivals | None) -> dict[str, Any]:
    """Everything about one shape, as JSON has it."""
    jobs = make_workload(SHAPES[shape]["vocab_size"], options.requests)
    prompt_tokens, output_tokens = totals(jobs)
    summary = summarize(runs)
    answers = [(run["engine"], run["outputs"]) for run in runs]
    gaps = plain_gaps(model_folder(shape, options.folder))
    return {
        "workload": {"requests": len(jobs), "prompt_tokens": prompt_tokens, "output_tokens": output_tokens},
        "arrivals": {"requests": len(jobs), "rate": arrivals.rate, "because": arrivals.because} if arrivals else None,
        "faster_vllm": faster_vllm(runs),
        "engines": {engine: summary[engine] for engine in ENGINES if engine in summary},
        "agreement": agreement(jobs, answers, gaps),
        "runs": [
            {name: value for name, value in run.items() if name not in ("outputs", "streams")}
            | {"figures": of_run(run)}
            for run in runs
        ],
    }


def report(comparison: Comparison, shapes: dict[str, Any]) -> dict[str, Any]:
    """The whole, as JSON has it."""
    runs = [run for part in shapes.values() for run in part["runs"]]
    versions = {
        f"vLLM's {name}" if name != "vllm" and run["engine"] in VLLM_ENGINES else name: version
        for run in runs
        for name, version in run["versions"].items()
    }
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "machine": machine(),
        "versions": versions,
        "skipped": comparison.skipped,
        # No paths: they are of one machine.
        "options": {name: value for name, value in vars(comparison.options).items() if name not in PATHS},
        "shapes": shapes,
    }


def machine() -> str:
    """The processor's name and how many cores of it this process may use."""
    info = Path("/proc/cpuinfo")
    named = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.is_file()
        else []
    )
    return f"{len(os.sched_getaffinity(0))} cores of {named[0] if named else platform.machine()}"


def _write(whole: dict[str, Any], data: Path, name: Path) -> None:
    """The figures, and the table and the picture beside them."""
    from benchmarks.plot import draw  # here: it is large, and was not to be beside the first engines

    data.parent.mkdir(parents=True, exist_ok=True)
    data.write_text(json.dumps(whole, indent=1) + "\n")
    name.with_suffix(".md").write_text(markdown(whole))
    draw(whole, name.with_suffix(".svg"))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the engine that runs is ended too
    main()
