"""A batch of 10,000 through the whole platform, in one run.

    python -m benchmarks.batches
    python -m benchmarks.batches --size 1000 --rounds 1

For each round, on a fresh server, API (gunicorn) and one worker with the echo engine:

- ``admit``: seconds from sending the POST to its 202, and how many jobs had ended by then.
- ``complete``: seconds from sending the POST to the last end, results read by cursor meanwhile.
- ``longest_script_ms``: the longest script call that the server saw, by phase (its slow log; on a shared machine that is
  time on the wall, so ``redis_cpu_ms_a_call`` stands beside it: the server's processor time over its calls).
- ``other_tenant``: POST latency of another tenant's single jobs, before the batch and while it is admitted and runs.
- ``cancel``, ``delete``: seconds for another batch of the size, of which no job has run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import redis

from shared.keys import NewKey, RedisKeyStore
from tests.servers import Process, RedisServer, find_redis_server, free_port, until

RESULTS = Path(__file__).parent / "results"
PREFIX = "bench"
PAUSE_S = 0.02


def main() -> None:
    """Run the rounds, print a table, write the JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.batches", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slots", type=int, default=32, help="of the echo worker (default: 32)")
    options = parser.parse_args()
    rounds = []
    for number in range(options.rounds):
        rounds.append(_round(options.size, options.slots))
        print(f"round {number + 1}: {json.dumps(rounds[-1])}", flush=True)
    report = {"size": options.size, "cores": os.cpu_count(), "load_average": os.getloadavg(), "rounds": rounds}
    for name in ("admit_s", "complete_s", "cancel_s", "delete_s"):
        print(f"{name}: median {statistics.median(entry[name] for entry in rounds):.2f}")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"batches-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written: {path}")


class Server:
    """Redis' own view of what it was made to do."""

    def __init__(self, port: int) -> None:
        self.client = redis.Redis(port=port, decode_responses=True)
        self.client.config_set("slowlog-log-slower-than", 1000)
        self.client.config_set("slowlog-max-len", 10_000)
        self.process = psutil.Process(int(self.client.info("server")["process_id"]))
        self.phase()

    def phase(self) -> dict[str, float]:
        """The longest script call in ms, and processor time a script call, since the last phase."""
        slow = [
            entry["duration"] / 1000 for entry in self.client.slowlog_get(10_000) if "EVALSHA" in str(entry["command"])
        ]
        calls = self.client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0)
        cpu_s = sum(self.process.cpu_times()[:2])
        self.client.slowlog_reset()
        self.client.config_resetstat()
        spent, self.cpu_s = cpu_s - getattr(self, "cpu_s", cpu_s), cpu_s
        return {
            "longest_script_ms": round(max(slow, default=0.0), 1),
            "script_calls": calls,
            "redis_cpu_ms_a_call": round(1000 * spent / max(1, calls), 2),
        }


class Neighbour(threading.Thread):
    """Another tenant, who submits single jobs all the time."""

    def __init__(self, url: str, key: str) -> None:
        super().__init__(daemon=True)
        self.client = httpx.Client(base_url=url, headers={"X-API-Key": key}, timeout=60)
        self.marks: list[tuple[float, float]] = []
        self.failure: httpx.HTTPError | None = None
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(PAUSE_S):
            began = time.perf_counter()
            try:
                self.client.post("/api/generate", json={"prompt": "hello", "max_length": 10}).raise_for_status()
            except httpx.HTTPError as error:
                self.failure = error
                return
            self.marks.append((began, time.perf_counter() - began))

    def between(self, began: float, ended: float) -> dict[str, float]:
        taken = sorted(1000 * took for at, took in self.marks if began <= at < ended)
        if not taken:
            return {"requests": 0}
        at = {name: round(taken[int(share * (len(taken) - 1))], 1) for name, share in (("p50", 0.5), ("p95", 0.95))}
        return {"requests": len(taken), **at, "max": round(taken[-1], 1)}


@contextmanager
def _stack(folder: Path, slots: int) -> Iterator[tuple[str, RedisServer]]:
    binary = find_redis_server()
    if binary is None:
        raise SystemExit("no redis-server or valkey-server found")
    with RedisServer(binary, folder) as server:
        port = free_port()
        env = {
            "REDIS_URL": server.url, "REDIS_PREFIX": PREFIX, "ENGINE": "echo", "MODEL_NAME": "demo",
            "ENGINE_SLOTS": str(slots), "API_PORT": str(port), "DEFAULT_REQUESTS_PER_MINUTE": "1000000",
            "DEFAULT_MAX_QUEUED": "1000000", "LOG_LEVEL": "WARNING",
        }  # fmt: skip
        processes = [Process([sys.executable, "-m", name], folder / f"{name}.log", env) for name in ("api", "worker")]
        url = f"http://127.0.0.1:{port}"
        try:
            until(lambda: _ready(url), 120, what="API and worker")
            yield url, server
        finally:
            for process in processes:
                process.process.terminate()
            for process in processes:
                process.wait(60)


def _ready(url: str) -> bool:
    try:
        return bool(httpx.get(f"{url}/health", timeout=5).json()["status"] == "ok")
    except httpx.HTTPError:
        return False


def _round(size: int, slots: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, _stack(Path(folder), slots) as (url, server):
        keys = RedisKeyStore(redis.Redis(port=server.port, decode_responses=True), f"{{{PREFIX}}}:")
        neighbour = Neighbour(url, keys.create(NewKey("neighbour"))[1])
        seen = Server(server.port)
        with httpx.Client(base_url=url, headers={"X-API-Key": keys.create(NewKey("shop"))[1]}, timeout=120) as client:
            neighbour.start()
            quiet = time.perf_counter()
            time.sleep(3)
            seen.phase()
            began = time.perf_counter()
            batch = client.post("/api/generate_batch", content=_body(size), headers=_JSON).raise_for_status().json()
            admitted = time.perf_counter()
            phases = {"admit": seen.phase()}
            counts = client.get(batch["urls"]["self"]).json()["counts"]
            results = _follow(client, batch["urls"]["results"])
            completed = time.perf_counter()
            neighbour.ended.set()
            neighbour.join()
            if neighbour.failure:
                raise SystemExit(f"{neighbour.failure}:\n{Path(folder, 'api.log').read_text()[-6000:]}")
            phases["run"] = seen.phase()
            if results != size:
                raise SystemExit(f"{results} results of {size}")
            times = _cancel_and_delete(client, seen, phases, size)
        return {
            "admit_s": round(admitted - began, 3),
            "ended_by_then": size - counts["queued"] - counts["running"],
            "complete_s": round(completed - began, 2),
            **times,
            "phases": phases,
            "other_tenant_ms": {
                "before": neighbour.between(quiet, began),
                "while_admitted": neighbour.between(began, admitted),
                "while_it_runs": neighbour.between(admitted, completed),
            },
        }


_JSON = {"Content-Type": "application/json"}


def _body(size: int) -> bytes:
    prompt = "What is a good tea for the evening, and what goes with it? "
    requests = [{"custom_id": f"row-{number}", "prompt": f"{prompt}{number}"} for number in range(size)]
    return json.dumps({"requests": requests, "max_length": 10}).encode()


def _follow(client: httpx.Client, path: str) -> int:
    """Read results by cursor until the batch is over; returns how many there were."""
    count, cursor = 0, {}
    while True:
        page = client.get(path, params=cursor).raise_for_status()
        lines = page.text.count("\n")
        count += lines
        cursor = {"cursor": page.headers["X-Next-Cursor"]}
        if not lines:
            if page.headers["X-Batch-Status"] == "completed":
                return count
            time.sleep(0.1)


def _cancel_and_delete(client: httpx.Client, seen: Server, phases: dict[str, Any], size: int) -> dict[str, float]:
    seen.client.sadd(f"{{{PREFIX}}}:paused", "demo")  # nothing is sent to the worker any more
    batch = client.post("/api/generate_batch", content=_body(size), headers=_JSON).raise_for_status().json()
    seen.phase()
    began = time.perf_counter()
    client.post(batch["urls"]["cancel"]).raise_for_status()
    canceled = time.perf_counter()
    phases["cancel"] = seen.phase()
    client.delete(batch["urls"]["self"]).raise_for_status()
    deleted = time.perf_counter()
    phases["delete"] = seen.phase()
    return {"cancel_s": round(canceled - began, 3), "delete_s": round(deleted - canceled, 3)}


if __name__ == "__main__":
    main()
