"""What the platform costs over the engine alone, in one run.

    python -m benchmarks.platform                     # distilgpt2's shape; some minutes on two cores
    python -m benchmarks.platform --shape tiny --rounds 1

Parts, each printed and written into benchmarks/results:

- ``throughput``: workload W through HTTP, Redis, Celery and back, against the same prompts on the engine alone, in turn.
  Both decode greedily with the same model file; the platform's clock runs from the first submit to the last end that a
  client has seen by long-polling. The engine alone takes every core, so the rest takes from it; with ``--threads`` one less
  than there are cores, as beside a GPU, it does not.
- ``memory``: the API process's resident memory after that, and Redis' memory for 10,000 finished jobs beside their text.
- ``round_trips``: commands that a submit and a read cost the API's connection, counted by the server.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import redis

from benchmarks.workload import SHAPES, Job, make_workload, model_folder, save_model, totals

RESULTS = Path(__file__).parent / "results"
MODES = '[general]\ndescription = "The prompt itself."\n' + "".join(
    f'[general.{language}]\nsystem = "-"\ntemplate = "{{input}}"\nturn = "{{input}}{{output}}"\n'
    for language in ("en", "zh-Hant")
)
FINISHED_JOBS = 10_000
PROMPT, OUTPUT = "x" * 200, "y" * 400


def main() -> None:
    """Run all parts, print the table, write the JSON."""
    options = _parse()
    if options.child:
        _engine_alone(options)
        return
    if options.memory:
        print(f"Redis, a finished job beside its text: {_bytes_per_job() / 1e3:.2f} KB")
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    save_model(options.shape, options.folder)
    rounds = []
    for number in range(options.rounds):
        alone = _run_child()
        through, memory, trips = _through_the_platform(options)
        rounds.append({"engine_alone": alone, "platform": through, "ratio": through / alone})
        print(f"round {number + 1}: engine alone {alone:.1f} tok/s, platform {through:.1f} tok/s", flush=True)
    prompt_tokens, output_tokens = totals(make_workload(2))
    report = {
        "shape": options.shape,
        "engine_threads": options.threads,
        "workload": {"requests": 64, "prompt_tokens": prompt_tokens, "output_tokens": output_tokens},
        "cores": os.cpu_count(),
        "load_average": os.getloadavg(),
        "rounds": rounds,
        "platform_to_engine": statistics.median(entry["ratio"] for entry in rounds),
        "memory": memory | {"redis_bytes_per_finished_job_beside_text": _bytes_per_job()},
        "round_trips": trips,
    }
    _print(report)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"platform-{options.shape}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\nwritten: {path}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.platform", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=sorted(SHAPES), default="gpt2")
    parser.add_argument("--rounds", type=int, default=3, help="engine alone and platform, in turn (default: 3)")
    parser.add_argument(
        "--threads",
        type=int,
        default=None,
        help="the engine's, alone and in the platform: fewer than cores leave it one",
    )
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "smarttextgen-bench")
    parser.add_argument("--memory", action="store_true", help="only what a finished job takes in Redis")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _jobs(options: argparse.Namespace) -> list[Job]:
    return make_workload(SHAPES[options.shape]["vocab_size"])


def _text(job: Job) -> str:
    """The prompt as words of the benchmark's tokenizer: one word, one token."""
    return " ".join(f"t{token}" for token in job.prompt)


# --- the engine alone


def _run_child() -> float:
    command = [sys.executable, "-m", "benchmarks.platform", *sys.argv[1:], "--child"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"the engine alone failed:\n{done.stderr[-4000:]}")
    return float(done.stdout.strip().splitlines()[-1])


def _engine_alone(options: argparse.Namespace) -> None:
    # Imported here: the parent must not hold a model's libraries while it measures the platform.
    from worker.engine.factory import EngineConfig, build_engine
    from worker.engine.protocol import EngineRequest, SamplingParams

    folder = model_folder(options.shape, options.folder)
    engine = build_engine(EngineConfig(model_id=str(folder), device="cpu", threads=options.threads))
    engine.start()
    requests = [
        # What is computed is kept for its tenant, as a worker asks for.
        EngineRequest(job.prompt, SamplingParams(max_tokens=job.output_tokens, temperature=0.0), reuse_scope="tenant")
        for job in _jobs(options)
    ]
    began = time.perf_counter()
    handles = [engine.submit(request) for request in requests]
    tokens = sum(handle.result().usage.completion_tokens for handle in handles)
    print(tokens / (time.perf_counter() - began))
    engine.shutdown()


# --- the whole platform


@contextmanager
def _stack(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A whole stack on free ports; yields its ready file."""
    with tempfile.TemporaryDirectory() as folder:
        modes, ready = Path(folder, "modes.toml"), Path(folder, "ready.json")
        modes.write_text(MODES)
        environment = os.environ | {"MODES_FILE": str(modes), "DEFAULT_REQUESTS_PER_MINUTE": "100000"}
        if options.threads is not None:
            environment["ENGINE_THREADS"] = str(options.threads)
        command = [
            sys.executable,
            "-m",
            "smarttextgen",
            "up",
            "--json",
            "--data-dir",
            folder,
            "--ready-file",
            str(ready),
        ]
        command += ["--model", str(model_folder(options.shape, options.folder))]
        log = Path(folder, "up.log")
        with log.open("wb") as output:
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + 120
            while not ready.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"the stack did not start:\n{log.read_text()[-4000:]}")
                time.sleep(0.1)
            yield json.loads(ready.read_text())
        finally:
            process.terminate()
            process.wait(60)


def _through_the_platform(options: argparse.Namespace) -> tuple[float, dict[str, Any], dict[str, Any]]:
    with _stack(options) as stack:
        client = Client(stack["url"], stack["api_key"])
        _tokens(client, _submit(client, {"prompt": "t1 t2", "max_length": 10, "temperature": 0}))
        began = time.perf_counter()
        with ThreadPoolExecutor(16) as threads:
            bodies = [
                {"prompt": _text(job), "max_length": job.output_tokens, "temperature": 0, "cache": False}
                for job in _jobs(options)
            ]
            ids = list(threads.map(lambda body: _submit(client, body), bodies))
            tokens = sum(threads.map(lambda job_id: _tokens(client, job_id), ids))
        speed = tokens / (time.perf_counter() - began)
        # A client of its own: the API has hung up on what was silent for half a minute.
        trips = _round_trips(Client(stack["url"], stack["api_key"]), stack["redis_url"])
        return speed, {"api_resident_bytes": _resident(stack["pids"]["api"])}, trips


class Client:
    """Calls to the API, each thread over a connection of its own. It shares the processors with what it measures, so it is the
    plainest there is: with httpx it took 0.14 s of W's 24 s of processor time."""

    def __init__(self, url: str, api_key: str) -> None:
        self._host = url.removeprefix("http://")
        self._headers = {"X-API-Key": api_key, "Content-Type": "application/json"}
        self._mine = threading.local()

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The answer's object. Raises: SystemExit if it is an error."""
        if not hasattr(self._mine, "connection"):
            self._mine.connection = http.client.HTTPConnection(self._host, timeout=90)
        self._mine.connection.request(method, path, json.dumps(body) if body else None, self._headers)
        answer = self._mine.connection.getresponse()
        content: dict[str, Any] = json.loads(answer.read())
        if answer.status >= 400:
            raise SystemExit(f"{method} {path}: {answer.status} {content}")
        return content


def _submit(client: Client, body: dict[str, Any]) -> str:
    return str(client.call("POST", "/api/generate", body)["id"])


def _tokens(client: Client, job_id: str) -> int:
    """Wait for the end. Raises: SystemExit if it is not a success."""
    while True:
        job = client.call("GET", f"/api/jobs/{job_id}?wait=60")
        if job["status"] in ("queued", "running"):
            continue
        if job["status"] != "succeeded":
            raise SystemExit(f"job ended {job['status']}: {job['error']}")
        return int(job["usage"]["completion_tokens"])


def _resident(pids: list[int]) -> list[int]:
    """Resident bytes of the API's serving processes (gunicorn's children)."""
    return [child.memory_info().rss for pid in pids for child in psutil.Process(pid).children(recursive=True)]


def _round_trips(client: Client, redis_url: str) -> dict[str, Any]:
    """Script calls and plain reads that the server counts for ten submits and ten reads (Celery's hint is LPUSH and
    friends, and counted apart). Nothing else uses these two commands so, but for the worker's beat and claims, which run
    on jobs: they are waited for first, and the beat is subtracted by counting an idle second."""
    server = redis.Redis.from_url(redis_url, decode_responses=True)

    def calls() -> int:
        stats: dict[str, Any] = server.info("commandstats")
        return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("evalsha", "get"))

    job_id = _submit(client, {"prompt": "t1", "max_length": 10, "temperature": 0, "cache": False})
    _tokens(client, job_id)
    time.sleep(1)
    before, began = calls(), time.perf_counter()
    time.sleep(3)
    idle_per_s = (calls() - before) / (time.perf_counter() - began)
    before, began = calls(), time.perf_counter()
    for _ in range(200):
        client.call("GET", f"/api/jobs/{job_id}")
    reads = calls() - before - idle_per_s * (time.perf_counter() - began)
    return {"read": round(reads / 200, 2), "idle_calls_per_s": round(idle_per_s, 2)}


# --- what a finished job takes in Redis


def _bytes_per_job() -> float:
    """Redis' used memory for 10,000 finished jobs, less their prompts and outputs, over 10,000."""
    from shared.job import Choice, JobRef, JobSpec, JobStatus, Outcome, Usage
    from shared.store.protocol import Finished, ModelInfo, NewJob, Submission, WorkerInfo
    from shared.store.redis import RedisStore

    with _bare_redis() as url:
        client = redis.Redis.from_url(url, decode_responses=True)
        store = RedisStore(client, "{stg}:")
        model = ModelInfo("demo", "r1", "echo", "cpu", "float32", 1024)
        store.beat(WorkerInfo("host-1-abcdef", model, slots=4), [])
        before = client.info("memory")["used_memory"]
        spec = JobSpec(PROMPT, "general", "demo", user_id=None, temperature=0.7)
        outcome = Outcome(JobStatus.SUCCEEDED, (Choice(0, OUTPUT, "stop"),), Usage(60, 100))
        for number in range(FINISHED_JOBS):
            ref = JobRef("shop", f"job_{number:032x}")
            store.submit(Submission("shop", "key_1", (NewJob(ref.id, spec),), request_id=f"req_{number:032x}"))
            if number % 1000 == 0:
                store.beat(WorkerInfo("host-1-abcdef", model, slots=4), [])  # its lease
            store.claim(ref, "host-1-abcdef", f"{number:032x}")
            verdict, _ = store.finish(ref, "host-1-abcdef", 1, outcome)
            if verdict is not Finished.ACCEPTED:
                raise SystemExit("a job of the benchmark did not finish")
        used = client.info("memory")["used_memory"] - before
        return float(used / FINISHED_JOBS - len(PROMPT) - len(OUTPUT))


@contextmanager
def _bare_redis() -> Iterator[str]:
    from tests.servers import RedisServer, find_redis_server

    binary = find_redis_server()
    if binary is None:
        raise SystemExit("no redis-server or valkey-server found")
    with tempfile.TemporaryDirectory() as folder, RedisServer(binary, Path(folder)) as server:
        yield server.url


def _print(report: dict[str, Any]) -> None:
    print(f"\n| {report['shape']}, median of {len(report['rounds'])} | |\n|---|---|")
    print(f"| platform / engine alone, tok/s | {report['platform_to_engine']:.3f} |")
    resident = ", ".join(f"{size / 1e6:.0f} MB" for size in report["memory"]["api_resident_bytes"])
    print(f"| API process, resident | {resident} |")
    per_job = report["memory"]["redis_bytes_per_finished_job_beside_text"]
    print(f"| Redis, a finished job beside its text | {per_job / 1e3:.2f} KB |")
    print(f"| Redis calls a read | {report['round_trips']['read']} |")


if __name__ == "__main__":
    main()
