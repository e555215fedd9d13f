"""One engine's run in a process of its own: its environment, its memory, and where vLLM's Python is."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from benchmarks.engines.contender import Task

ROOT = Path(__file__).parent.parent
VLLM_ENGINES = ("vllm", "vllm-eager")
# Where `make test-vllm` puts it, from the repository's root.
VLLM_PYTHONS = ("build/vllm/bin/python",)

_LONGEST_S = 1800.0
_SAMPLE_S = 0.2
_WORTH_COUNTING = (
    1.1  # a proportional count stops the process for up to 40 ms: only when resident memory has grown by as much
)


def vllm_python(given: str | None) -> Path | None:
    """The Python of an environment with vLLM: the one named, or the one that `make test-vllm` made; None without.

    Raises: SystemExit where the one named is not there, or has none.
    """
    named = given or os.environ.get("VLLM_PYTHON")
    if named and not _has_vllm(Path(named)):
        raise SystemExit(f"No vLLM in the environment of {named}")
    places = [Path(named)] if named else [ROOT / place for place in VLLM_PYTHONS]
    return next((place.absolute() for place in places if _has_vllm(place)), None)


def _has_vllm(python: Path) -> bool:
    program = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    return python.is_file() and subprocess.run([python, "-c", program], check=False).returncode == 0


def run_engine(task: Task, python: Path | str = sys.executable) -> dict[str, Any]:
    """Run ``task`` in a fresh process and wait. Returns what it wrote, and ``peak_bytes`` of it and its children.

    Raises: SystemExit with the end of its output if it fails.
    """
    result, log = Path(task.result), Path(task.result).with_suffix(".log")
    result.unlink(missing_ok=True)
    command = [str(python), "-m", "benchmarks.engines", json.dumps(asdict(task))]
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=_environment(task.engine), stdout=output, stderr=output, start_new_session=True
        )
        try:
            peak = _watch(process)
        finally:
            _end(process)
    if process.returncode != 0 or not result.is_file():
        raise SystemExit(f"{task.engine} failed ({process.returncode}):\n{log.read_text(errors='replace')[-4000:]}")
    answer: dict[str, Any] = json.loads(result.read_text())
    return answer | {"peak_bytes": peak}


def _environment(engine: str) -> dict[str, str]:
    """vLLM: threads on every core that this process may use (by itself it keeps one of them free, half of two), and waiting
    as it chooses. The others as our engine sets it: threads that spin long while they wait measure the neighbours, not the engines."""
    common = os.environ | {"PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"}
    if engine not in VLLM_ENGINES:
        return common | {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "4000"}
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    wanted = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": cores, "VLLM_NO_USAGE_STATS": "1"}
    return common | {"HF_HUB_OFFLINE": "1"} | wanted | {key: os.environ[key] for key in wanted if key in os.environ}


def _watch(process: subprocess.Popen[bytes]) -> int:
    """Until it ends. Returns the most memory it and its children had, pages that they share counted once (PSS)."""
    deadline = time.monotonic() + _LONGEST_S
    seen, peak = 0, 0
    while process.poll() is None:
        if time.monotonic() > deadline:
            raise SystemExit(f"{process.args} took over {_LONGEST_S:.0f} s.")
        resident = _total(process.pid, "rss")
        if resident > seen * _WORTH_COUNTING:
            seen, peak = resident, max(peak, _total(process.pid, "pss"))
        time.sleep(_SAMPLE_S)
    return peak


def _total(pid: int, kind: str) -> int:
    try:
        first = psutil.Process(pid)
        members = [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    return sum(_bytes(member, kind) for member in members)


def _bytes(process: psutil.Process, kind: str) -> int:
    try:
        known = process.memory_info() if kind == "rss" else process.memory_full_info()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
    # Shared pages are told apart on Linux only.
    return int(getattr(known, kind, known.rss))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Nothing of it stays, its own children neither."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
