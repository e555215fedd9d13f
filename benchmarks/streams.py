"""What token streams cost, in one run.

    python -m benchmarks.streams                  # some minutes on two cores
    python -m benchmarks.streams --rounds 1 --part idle

Parts, each printed and written into benchmarks/results:

- ``first_token``: milliseconds from the engine's first text of a job to its client's. Engine, runner and client are in this
  process, so that they share a clock; Redis and the API are processes of their own.
- ``throughput``: tokens a second of a whole stack on the bundled model, every job streamed against every job long-polled,
  in turn; and processor time a token of worker, API and Redis, which a busy machine changes less. The clients are a process of
  their own.
- ``log``: what one call costs that logs a piece of text of each of 32 jobs; a worker makes 25 a second at most.
- ``idle``: POST latency with idle streams open on one API process against none, in turn, and the process's memory.
"""

from __future__ import annotations

import argparse
import http.client
import json
import logging
import os
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import structlog

from tests.api.live import LiveApi
from tests.servers import Process, RedisServer, find_redis_server, until

RESULTS = Path(__file__).parent / "results"
LIMITS = {
    "DEFAULT_REQUESTS_PER_MINUTE": "1000000", "DEFAULT_MAX_QUEUED": "1000000", "API_MAX_STREAMS": "5000",
    "MAX_STREAMS_PER_KEY": "5000", "LOG_LEVEL": "WARNING",
}  # fmt: skip
FIRST_TOKENS, JOBS, TOKENS, POSTS, CALLS = 100, 64, 200, 300, 200


def main() -> None:
    """Run the parts, print the figures, write the JSON."""
    options = _parse()
    if options.child:
        _watch_all(options)
        return
    report: dict[str, Any] = {"cores": os.cpu_count(), "load_average_before": os.getloadavg()}
    parts = {"first_token": _first_token, "throughput": _throughput, "log": _log, "idle": _idle}
    for name, part in parts.items():
        if options.part in (None, name):
            with tempfile.TemporaryDirectory() as folder, _redis(Path(folder)) as url:
                report[name] = part(options, url, Path(folder))
            print(f"{name}: {json.dumps(report[name], indent=1)}", flush=True)
    report["load_average_after"] = os.getloadavg()
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"streams-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\nwritten: {path}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.streams", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="of throughput and idle, in turn (default: 3)")
    parser.add_argument("--streams", type=int, default=800, help="idle ones (default: 800)")
    parser.add_argument("--part", choices=["first_token", "throughput", "log", "idle"])
    parser.add_argument("--child", choices=["stream", "poll"], help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--key", help=argparse.SUPPRESS)
    return parser.parse_args()


@contextmanager
def _redis(folder: Path) -> Iterator[str]:
    binary = find_redis_server()
    if binary is None:
        raise SystemExit("no redis-server or valkey-server found")
    with RedisServer(binary, folder) as server:
        yield server.url


def _api(url: str, folder: Path, **env: str) -> LiveApi:
    return LiveApi(url, f"b{secrets.token_hex(4)}", folder, **LIMITS, **env)


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def _summary(values: list[float]) -> dict[str, float]:
    return {"p50": round(statistics.median(values), 2), "p95": round(_percentile(values, 0.95), 2)}


# --- the first token


def _first_token(_options: argparse.Namespace, url: str, folder: Path) -> dict[str, Any]:
    # Imported here: the process that watches must not hold an engine's libraries.
    from shared.job import JobRef
    from shared.modes import load_modes
    from shared.store.protocol import ModelInfo, WorkerInfo
    from worker.engine.factory import EngineConfig, build_engine
    from worker.engine.protocol import Delta
    from worker.prompts import PromptBuilder
    from worker.publisher import Publisher, Speech
    from worker.runner import Runner

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    spoken: list[float] = []
    say = Speech.say

    def timed(speech: Speech, delta: Delta) -> None:
        if len(spoken) < 1:
            spoken.append(time.perf_counter())
        say(speech, delta)

    Speech.say = timed  # type: ignore[method-assign]
    engine = build_engine(EngineConfig(engine="echo", echo_token_delay_s=0.02))
    engine.start()
    extra = []
    with _api(url, folder) as api:
        publisher = Publisher(api.store, "bench", flush_s=0.04, unwatched_s=0.04)
        publisher.start()
        runner = Runner(
            api.store, engine, PromptBuilder(engine, load_modes()), "bench", lambda _: None, "demo", publisher
        )
        for _ in range(FIRST_TOKENS):
            model = ModelInfo("demo", "1", "echo", "cpu", "none", 4096)
            api.store.beat(WorkerInfo("bench", model, 4, "draining"), ())
            body = {"prompt": "hello", "max_length": 10, "cache": False}
            job_id = api.call("POST", "/api/generate", body).json["id"]
            spoken.clear()
            with api.open(api.head(f"/api/jobs/{job_id}/stream", method="GET")) as sock:
                received = sock.recv(65_536)
                thread = threading.Thread(target=runner.run, args=(JobRef("shop", job_id),))
                thread.start()
                while b"event: output" not in received:
                    received += sock.recv(65_536)
                extra.append((time.perf_counter() - spoken[0]) * 1000)
                thread.join()
        publisher.stop()
    engine.shutdown()
    Speech.say = say  # type: ignore[method-assign]
    return {"jobs": FIRST_TOKENS, "client_after_engine_ms": _summary(extra)}


# --- throughput


def _throughput(options: argparse.Namespace, url: str, folder: Path) -> dict[str, Any]:
    # A place for every long poll: who gets none would ask again and again.
    with _api(url, folder, API_MAX_WAITERS=str(JOBS), API_THREADS=str(JOBS + 16)) as api:
        worker = Process([sys.executable, "-m", "worker"], folder / "worker.log", api.env | {"ENGINE": "transformers"})
        try:
            until(lambda: api.store.fleet().workers, 120, what="a worker")
            _run_child("poll", api)  # every code path is warm
            rounds = []
            processes = {
                "worker": psutil.Process(worker.process.pid),
                "api": api.workers()[0],
                "redis": psutil.Process(api.redis.info("server")["process_id"]),
            }
            for _ in range(options.rounds):
                none, streamed = (_run_measured(how, api, processes) for how in ("poll", "stream"))
                ratio = streamed["tokens_a_second"] / none["tokens_a_second"]
                rounds.append({"polled": none, "streamed": streamed, "ratio": round(ratio, 3)})
                print(f"throughput: {rounds[-1]}", flush=True)
        finally:
            worker.kill()
    ratio = statistics.median(entry["ratio"] for entry in rounds)
    return {"jobs": JOBS, "tokens_a_job": TOKENS, "rounds": rounds, "streamed_to_polled": round(ratio, 3)}


def _run_measured(how: str, api: LiveApi, processes: dict[str, psutil.Process]) -> dict[str, float]:
    """Tokens a second, and milliseconds of processor time a token by process."""
    before = {name: _busy(process) for name, process in processes.items()}
    speed, tokens = _run_child(how, api)
    spent = {
        f"{name}_ms_a_token": (_busy(process) - before[name]) * 1000 / tokens for name, process in processes.items()
    }
    return {"tokens_a_second": round(speed, 1)} | {name: round(value, 3) for name, value in spent.items()}


def _busy(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _run_child(how: str, api: LiveApi) -> tuple[float, int]:
    command = [sys.executable, "-m", "benchmarks.streams", "--child", how, "--port", str(api.port), "--key", api.key]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"the clients failed:\n{done.stderr[-4000:]}")
    speed, tokens = done.stdout.split()[-2:]
    return float(speed), int(tokens)


def _watch_all(options: argparse.Namespace) -> None:
    """Submit all jobs, and watch each to its end; prints tokens a second."""
    headers = {"X-API-Key": options.key, "Content-Type": "application/json"}

    def run(number: int) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", options.port, timeout=120)
        body = {
            "prompt": f"Tell me of number {number}",
            "max_length": TOKENS,
            "temperature": 1,
            "seed": number,
            "cache": False,
        }
        connection.request("POST", "/api/generate", json.dumps(body), headers)
        path = json.loads(connection.getresponse().read())["urls"]["self"]
        job = {"status": "queued"}
        while job["status"] in ("queued", "running"):
            if options.child == "stream":
                connection.request("GET", f"{path}/stream", headers=headers)
                response = connection.getresponse()
                while line := response.readline():
                    if line.startswith(b'data: {"id"'):
                        job = json.loads(line[6:])
            else:
                connection.request("GET", f"{path}?wait=60", headers=headers)
                job = json.loads(connection.getresponse().read())
        return int(job["usage"]["completion_tokens"])

    began = time.perf_counter()
    with ThreadPoolExecutor(JOBS) as threads:
        tokens = sum(threads.map(run, range(JOBS)))
    print(tokens / (time.perf_counter() - began), tokens)


# --- the log


def _log(_options: argparse.Namespace, url: str, _folder: Path) -> dict[str, Any]:
    from shared.job import JobRef, JobSpec
    from shared.settings import load_settings
    from shared.store.connection import connect, key_prefix
    from shared.store.events import Said
    from shared.store.protocol import ModelInfo, NewJob, Submission, WorkerInfo
    from shared.store.redis import RedisStore

    settings = load_settings(redis_url=url)
    client = connect(settings)
    store = RedisStore(client, key_prefix(settings))
    store.beat(WorkerInfo("bench", ModelInfo("demo", "1", "echo", "cpu", "none", 4096), 64), ())
    refs = [JobRef("shop", f"job_{number:032x}") for number in range(32)]
    spec = JobSpec("x", "general", "demo")
    store.submit(Submission("shop", "key_1", tuple(NewJob(ref.id, spec) for ref in refs)))
    for ref in refs:
        store.claim(ref, "bench", ref.id)
    client.config_resetstat()
    took, busy = [], time.process_time()
    for number in range(CALLS):
        began = time.perf_counter()
        store.progress("bench", [Said(ref, 1, number, (("0", "some words "),)) for ref in refs])
        took.append((time.perf_counter() - began) * 1000)
    stats = client.info("commandstats")["cmdstat_evalsha"]
    entry = client.memory_usage(f"{key_prefix(settings)}log:{refs[0]}", samples=0) / CALLS
    found = {
        "call_ms": _summary(took),
        "worker_processor_ms_a_call": round((time.process_time() - busy) * 1000 / CALLS, 3),
        "redis_ms_a_call": round(float(stats["usec_per_call"]) / 1000, 3),
        "redis_bytes_an_event": round(entry, 1),
    }
    client.close()
    return found


# --- idle streams


def _idle(options: argparse.Namespace, url: str, folder: Path) -> dict[str, Any]:
    """Each stream is of a job of its own, which waits."""
    rounds = []
    with _api(url, folder, API_MAX_WAITERS="0") as api:
        paths = [
            api.call("POST", "/api/generate", {"prompt": "hello"}).json["urls"]["stream"]
            for _ in range(options.streams)
        ]
        for _ in range(options.rounds):
            none = _posts(api)
            before = _resident(api)
            with ExitStack() as streams:
                for path in paths:
                    sock = streams.enter_context(api.open(api.head(path, method="GET")))
                    while b"event: queued" not in _received(sock):
                        pass
                until(lambda: len(api.redis.pubsub_channels("*events*")) == options.streams, 30, what="all streams")
                memory = (_resident(api) - before) / 1024 / options.streams
                idle = _posts(api)
            until(lambda: not api.redis.pubsub_channels("*events*"), 30)
            rounds.append({"none_ms": _summary(none), "idle_ms": _summary(idle), "kib_a_stream": round(memory, 1)})
            print(f"idle: {rounds[-1]}", flush=True)
    ratio = statistics.median(entry["idle_ms"]["p95"] / entry["none_ms"]["p95"] for entry in rounds)
    return {"streams": options.streams, "posts": POSTS, "rounds": rounds, "p95_idle_to_none": round(ratio, 2)}


def _received(sock: socket.socket) -> bytes:
    data = sock.recv(65_536)
    if not data.startswith(b"HTTP/1.1 200") and b"event: queued" not in data:
        raise SystemExit(f"a stream was refused: {data[:400]!r}")
    return data


def _posts(api: LiveApi) -> list[float]:
    """Milliseconds of POSTs one after the other, on one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=30)
    took = []
    for _ in range(POSTS):
        began = time.perf_counter()
        if api.on(connection, "POST", "/api/generate", {"prompt": "hello"}).status != 202:
            raise SystemExit("a job was refused")
        took.append((time.perf_counter() - began) * 1000)
    connection.close()
    return took


def _resident(api: LiveApi) -> int:
    return sum(int(worker.memory_info().rss) for worker in api.workers())


if __name__ == "__main__":
    main()
