"""What a job costs each process: processor time and Redis memory, so that it holds on a busy machine too.

    python -m benchmarks.capacity                     # about a minute on two cores
    python -m benchmarks.capacity --jobs 2000 --workers 3

The API, Redis and echo workers run as processes of their own; jobs come over HTTP, one a request, and are not polled. The
processor time of each (user and system, with its children) is divided by the jobs. Then the workers idle, for what their
beats and the reconciler cost. docs/scaling.md calculates with the figures.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.api.live import LiveApi
from tests.servers import Process, RedisServer, find_redis_server, until

RESULTS = Path(__file__).parent / "results"
CLIENTS = 8
IDLE_S = 10.0


def main() -> None:
    """Measure, print, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1_500)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=20)
    options = parser.parse_args()
    report: dict[str, Any] = {"cores": os.cpu_count(), "load_average": os.getloadavg(), **vars(options)}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        report |= _measure(Path(folder), stack, options)
    print(json.dumps(report, indent=1))
    path = RESULTS / f"capacity-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\nwritten: {path}")


def _measure(folder: Path, stack: contextlib.ExitStack, options: argparse.Namespace) -> dict[str, Any]:
    binary = find_redis_server()
    if binary is None:
        raise SystemExit("no redis-server on PATH")
    server = stack.enter_context(RedisServer(binary, folder))
    api = stack.enter_context(
        LiveApi(server.url, "capacity", folder, DEFAULT_REQUESTS_PER_MINUTE="1000000", LOG_LEVEL="WARNING")
    )
    workers = [
        Process([sys.executable, "-m", "worker"], folder / f"worker{n}.log", api.env) for n in range(options.workers)
    ]
    for worker in workers:
        stack.callback(worker.kill)
    until(lambda: len(api.store.fleet().workers) == options.workers, 90, what="the workers")
    assert server.process is not None
    pids = {"redis": [server.process.pid], "api": [api.process.process.pid], "worker": [w.process.pid for w in workers]}
    _run(api, 50, options.tokens)  # connections, scripts and caches are there now
    memory = api.redis.info("memory")["used_memory"]
    before, calls = _seconds(pids), api.redis.info("commandstats")
    submitted, ended = _run(api, options.jobs, options.tokens)
    after = _seconds(pids)
    kept = api.redis.info("memory")["used_memory"] - memory
    scripts = _calls(api.redis.info("commandstats")) - _calls(calls)
    idle_before = _seconds(pids)
    time.sleep(IDLE_S)
    idle = {name: seconds - idle_before[name] for name, seconds in _seconds(pids).items()}
    return {
        "cpu_ms_a_job": {name: round(1000 * (after[name] - before[name]) / options.jobs, 3) for name in pids},
        "jobs_per_second": {"submitted": round(options.jobs / submitted, 1), "ended": round(options.jobs / ended, 1)},
        "redis_script_calls_a_job": round(scripts / options.jobs, 2),
        "redis_bytes_a_finished_job": round(kept / options.jobs),
        "idle_cpu_share_of_a_core": {name: round(seconds / IDLE_S, 4) for name, seconds in idle.items()},
        "resident_mib": {name: round(sum(_resident(pid) for pid in found), 1) for name, found in pids.items()},
    }


def _run(api: LiveApi, jobs: int, tokens: int) -> tuple[float, float]:
    """Seconds until all are submitted, and until all have ended."""
    place = threading.local()
    body = {"prompt": "wool hiking socks, grey, for long walks in the rain", "max_length": tokens, "cache": False}

    def submit(_: int) -> None:
        if not hasattr(place, "client"):
            place.client = httpx.Client(base_url=f"http://127.0.0.1:{api.port}", headers={"X-API-Key": api.key})
        place.client.post("/api/generate", json=body).raise_for_status()

    began = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as threads:
        list(threads.map(submit, range(jobs)))
    submitted = time.monotonic() - began
    until(lambda: _busy(api) == 0, 300, every_s=0.5, what="the ends of all jobs")
    return submitted, time.monotonic() - began


def _busy(api: LiveApi) -> int:
    fleet = api.store.fleet()
    return sum(fleet.queue_lengths.values()) + sum(fleet.jobs.values())


def _calls(stats: dict[str, Any]) -> int:
    return int(stats.get("cmdstat_evalsha", {}).get("calls", 0))


def _seconds(pids: dict[str, list[int]]) -> dict[str, float]:
    def of(pid: int) -> float:
        process = psutil.Process(pid)
        return sum(sum(part.cpu_times()[:2]) for part in (process, *process.children(recursive=True)))

    return {name: sum(of(pid) for pid in found) for name, found in pids.items()}


def _resident(pid: int) -> float:
    process = psutil.Process(pid)
    return float(sum(part.memory_info().rss for part in (process, *process.children(recursive=True)))) / 2**20


if __name__ == "__main__":
    main()
