"""One engine, one workload, in this process; ``benchmarks.engine`` starts it.

    python -m benchmarks.engines '{"engine": "ours", "shape": "tiny", "workload": "together", …}'      # a Task as JSON

Loads, warms up on a few other prompts, and only then starts the clock. Writes its answer as JSON into the task's ``result``
file, since some libraries print what they like.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from benchmarks.engines.contender import ARRIVALS, Contender, Outputs, Task
from benchmarks.workload import SHAPES, Job, arrival_times, make_workload, warm_up_jobs


def main(task: Task) -> None:
    began = time.perf_counter()
    contender = build(task)
    load_s = time.perf_counter() - began
    vocabulary = SHAPES[task.shape]["vocab_size"]
    contender.generate(warm_up_jobs(vocabulary))
    warm_s = time.perf_counter() - began - load_s
    jobs = make_workload(vocabulary, task.requests)
    measure = _arrivals if task.workload == ARRIVALS else _together
    answer = measure(contender, task, jobs)
    answer |= {"load_s": load_s, "warm_s": warm_s, "versions": contender.versions()}
    short = [
        at for at, (job, out) in enumerate(zip(jobs, answer["outputs"], strict=True)) if len(out) != job.output_tokens
    ]
    if short:
        raise SystemExit(f"{task.engine} gave another number of tokens than was asked for: requests {short}")
    Path(task.result).write_text(json.dumps(answer))
    contender.close()


def build(task: Task) -> Contender:
    """The engine, loaded. Imported one by one: each has libraries that the others' environments may lack."""
    if task.engine == "naive":
        from benchmarks.engines.naive import Naive

        return Naive(task)
    if task.engine == "static":
        from benchmarks.engines.static import Static

        return Static(task)
    if task.engine == "cb":
        from benchmarks.engines.continuous import Continuous

        return Continuous(task)
    if task.engine == "ours":
        from benchmarks.engines.ours import Ours

        return Ours(task)
    if task.engine in ("vllm", "vllm-eager"):
        from benchmarks.engines.vllm_cpu import VllmOffline, VllmOnline

        return VllmOnline(task) if task.workload == ARRIVALS else VllmOffline(task)
    raise SystemExit(f"No engine is called {task.engine!r}.")


def _together(contender: Contender, task: Task, jobs: list[Job]) -> dict[str, Any]:
    del task  # nothing of it matters here
    began, cpu = time.perf_counter(), _cpu_seconds()
    outputs: Outputs = contender.generate(jobs)
    return {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": _cpu_seconds() - cpu,
        "outputs": outputs,
    }


def _arrivals(contender: Contender, task: Task, jobs: list[Job]) -> dict[str, Any]:
    due = arrival_times(len(jobs), task.rate)
    began, cpu = time.perf_counter(), _cpu_seconds()
    streams = contender.serve(jobs, due)
    seconds, cpu_seconds = time.perf_counter() - began, _cpu_seconds() - cpu
    outputs = [stream.tokens for stream in streams]
    records = [{name: value for name, value in asdict(stream).items() if name != "tokens"} for stream in streams]
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "outputs": outputs, "streams": records}


def _cpu_seconds() -> float:
    """Of this process and those it has started that still run; vLLM computes in one of them."""
    this = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in (this, *this.children(recursive=True)))


if __name__ == "__main__":
    main(Task(**json.loads(sys.argv[1])))
