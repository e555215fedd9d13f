"""How soon a webhook is with its receiver, and how many a second one courier delivers; in one run.

    python -m benchmarks.webhooks            # about a minute on two cores

Parts, each printed and written into benchmarks/results:

- ``latency``: jobs end one after the other; from just before the finish is sent to Redis until the receiver has the whole request,
  on an idle courier at its default settings.
- ``rate``: so many deliveries wait when a courier starts; deliveries a second from the first one received to the last, to
  one receiver at the default limit, and to eight receivers.
- ``beside_slow``: the latency again, while 200 deliveries of the same tenant go to a receiver that never answers.

A real Redis (append-only), a real ``python -m worker.courier``, receivers on loopback in this process (plain http).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from shared.job import Choice, JobRef, JobSpec, JobStatus, Outcome, Usage
from shared.settings import load_settings
from shared.store.connection import connect, key_prefix
from shared.store.protocol import ModelInfo, NewJob, Submission, WorkerInfo
from shared.store.redis import RedisStore
from shared.store.retention import Retention
from tests.servers import Process, RedisServer, find_redis_server, until

RESULTS = Path(__file__).parent / "results"
OUTPUT = "A thousand characters, or so. " * 33
_numbers = itertools.count()


class Receivers:
    """Servers on loopback that take a request, remember when, and answer 204 (or never, when they are slow)."""

    def __init__(self, count: int, *, slow: bool = False) -> None:
        self._count = count
        self._slow = slow
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.at: list[float] = []
        self.urls: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._leave(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    async def _listen(self) -> None:
        for _ in range(self._count):
            server = await asyncio.start_server(self._take, "127.0.0.1", 0, backlog=512)
            self.urls.append(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")

    async def _leave(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))
        self.at.append(time.perf_counter())
        if self._slow:
            with suppress(asyncio.CancelledError):  # asyncio's server would print it
                await asyncio.sleep(3600)
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()


class Jobs:
    """Makes jobs and ends them, as a worker does."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self._store.beat(WorkerInfo("w1", ModelInfo("demo", "1", "echo", "cpu", "none", 1024), 64, "draining"), ())

    def running(self, url: str) -> JobRef:
        ref = JobRef("shop", f"j{next(_numbers)}")
        spec = JobSpec("hello", "general", "demo", webhook=url, webhook_events_filter=("job.succeeded",))
        self._store.submit(Submission("shop", "key_1", (NewJob(ref.id, spec),)))
        assert self._store.claim(ref, "w1", "t") is not None
        return ref

    def finish(self, ref: JobRef) -> None:
        outcome = Outcome(JobStatus.SUCCEEDED, (Choice(0, OUTPUT, "stop"),), Usage(10, 250))
        self._store.finish(ref, "w1", 1, outcome)


class Bench:
    """One server and what is on it."""

    def __init__(self, folder: Path, server: RedisServer) -> None:
        self._folder = folder
        self._url = server.url
        settings = load_settings(redis_url=server.url)
        client = connect(settings)
        client.flushall()
        self.store = RedisStore(client, key_prefix(settings), Retention(worker_lease_s=3600))
        self.jobs = Jobs(self.store)

    def courier(self) -> Process:
        env = {
            "REDIS_URL": self._url,
            "WEBHOOK_ALLOWLIST": "127.0.0.0/8",
            "WORKER_LEASE_S": "120",
            "LOG_LEVEL": "WARNING",
        }
        process = Process([sys.executable, "-m", "worker.courier"], self._folder / "courier.log", env)
        until(lambda: self.store.fleet().couriers == 1, 60, every_s=0.005, what="a courier")
        return process

    def latencies_ms(self, count: int) -> dict[str, float]:
        """One job after the other, with pauses."""
        found = []
        with Receivers(1) as receivers:
            for number in range(count):
                ref = self.jobs.running(receivers.urls[0])
                began = time.perf_counter()
                self.jobs.finish(ref)
                until(lambda number=number: len(receivers.at) > number, 20, every_s=0.002)
                found.append((receivers.at[number] - began) * 1000)
                time.sleep(0.02)
        found.sort()
        return {
            "median_ms": round(statistics.median(found), 1),
            "p95_ms": round(found[int(0.95 * len(found))], 1),
            "longest_ms": round(found[-1], 1),
            "count": count,
        }

    def rate(self, count: int, receivers: int) -> dict[str, float]:
        with Receivers(receivers) as servers:
            for number in range(count):
                self.jobs.finish(self.jobs.running(servers.urls[number % receivers]))
            process = self.courier()
            try:
                until(lambda: len(servers.at) >= count, 300, what="all deliveries")
            finally:
                process.kill()
        return {
            "per_second": round((count - 1) / (servers.at[-1] - servers.at[0]), 1),
            "count": count,
            "receivers": receivers,
        }


def main() -> None:
    """Run all parts, print them, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.webhooks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--deliveries", type=int, default=2_000)
    options = parser.parse_args()
    binary = find_redis_server()
    assert binary, "no redis-server or valkey-server"
    report: dict[str, Any] = {"cores": os.cpu_count(), "load_average": os.getloadavg()}
    with tempfile.TemporaryDirectory() as folder, RedisServer(binary, Path(folder)) as server:
        report |= _measure(Path(folder), server, options.jobs, options.deliveries)
    for name, value in report.items():
        print(f"{name:14}{value}")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"webhooks-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\nwritten: {path}")


def _measure(folder: Path, server: RedisServer, jobs: int, deliveries: int) -> dict[str, Any]:
    bench = Bench(folder, server)
    process = bench.courier()
    try:
        bench.latencies_ms(10)  # warm
        report: dict[str, Any] = {"latency": bench.latencies_ms(jobs)}
        with Receivers(1, slow=True) as slow:
            for _ in range(200):
                bench.jobs.finish(bench.jobs.running(slow.urls[0]))
            report["beside_slow"] = bench.latencies_ms(jobs // 2)
    finally:
        process.kill()
    report["rate"] = [Bench(folder, server).rate(deliveries, receivers) for receivers in (1, 8)]
    return report


if __name__ == "__main__":
    main()
