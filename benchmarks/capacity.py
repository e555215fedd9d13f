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
import itertools
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import redis

from shared.job import JobRef, JobSpec
from shared.settings import load_settings
from shared.store.connection import connect, key_prefix
from shared.store.protocol import ModelInfo, NewJob, Patience, Submission, WorkerInfo
from shared.store.redis import RedisStore
from tests.api.live import LiveApi
from tests.servers import Process, RedisServer, find_redis_server, until

RESULTS = Path(__file__).parent / "results"
CLIENTS = 8
IDLE_S = 10.0
WORKERS, SLOTS, TENANTS, WAITING, PASSES = 100, 64, 100, 100_000, 10


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
    with tempfile.TemporaryDirectory() as folder:
        report["redis_us_a_call_at_100_workers"] = _many_workers(Path(folder))
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


def _many_workers(folder: Path) -> dict[str, float]:
    """Server time of a call where 100 workers of 64 slots are busy and 100,000 jobs of 100 tenants wait, microseconds."""
    binary = find_redis_server()
    assert binary
    with RedisServer(binary, folder) as server:
        settings = load_settings(redis_url=server.url, model_name="demo")
        client = connect(settings)
        store = RedisStore(client, key_prefix(settings))
        spec = JobSpec(prompt="hello", mode="general", model="demo", max_length=20, temperature=0.0)
        numbers = itertools.count()
        for _ in range(2):
            for tenant in range(TENANTS):
                jobs = tuple(NewJob(f"j{next(numbers)}", spec) for _ in range(WAITING // TENANTS // 2))
                store.submit(Submission(f"t{tenant}", "key_1", jobs))
        model = ModelInfo("demo", "1", "echo", "cpu", "none", 1024)
        workers = [WorkerInfo(f"w{number}", model, SLOTS) for number in range(WORKERS)]
        running: dict[str, list[tuple[JobRef, int]]] = {worker.id: [] for worker in workers}
        store.pause("demo")

        def beat_all() -> None:
            for worker in workers:
                store.beat(worker, running[worker.id])

        beat_all()
        waiting = list(store.resume("demo"))
        for worker in workers:
            for hint in waiting[:SLOTS]:
                claim = store.claim(hint.ref, worker.id, hint.ref.id)
                assert claim is not None
                running[worker.id].append((hint.ref, claim.job.attempt))
            waiting = waiting[SLOTS:]
            store.beat(worker, running[worker.id])
        patience = Patience(pause_s=0)
        passes = itertools.repeat(None, PASSES)
        return {
            "window": len(waiting) + sum(map(len, running.values())),
            "running": sum(map(len, running.values())),
            "beat": _us_a_call(client, beat_all, WORKERS),
            "reconcile": _us_a_call(client, lambda: [store.reconcile(patience) for _ in passes], PASSES),
            "fleet": _us_a_call(client, store.fleet, 1),
            "figures": _us_a_call(client, store.figures, 1),
        }


def _us_a_call(client: redis.Redis, call: Callable[[], object], calls: int) -> float:
    def spent() -> float:
        return float(client.info("commandstats").get("cmdstat_evalsha", {}).get("usec", 0))

    before = spent()
    call()
    return round((spent() - before) / calls, 1)


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
