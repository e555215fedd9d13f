"""Runs benchmarks/locustfile.py against a stack of its own with the echo engine, and keeps the report.

    make load                                         # locust in an environment of its own; 20 people, 40 s
    python -m benchmarks.load --locust .venv-load/bin/locust --people 100 --seconds 120

Writes benchmarks/results/locust-*.html. Exit code: locust's, 1 where a request failed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from tests.api.live import LiveApi
from tests.servers import Process, RedisServer, find_redis_server, until

HERE = Path(__file__).parent


def main() -> int:
    """Start, load, stop."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__.splitlines()[0])
    parser.add_argument("--locust", default="locust", help="the program")
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--seconds", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    binary = find_redis_server()
    if binary is None:
        raise SystemExit("no redis-server on PATH")
    report = HERE / "results" / f"locust-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.html"
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(RedisServer(binary, folder))
        env = {"DEFAULT_REQUESTS_PER_MINUTE": "1000000", "LOG_LEVEL": "WARNING"}
        api = stack.enter_context(LiveApi(server.url, "load", folder, **env))
        for number in range(options.workers):
            worker = Process([sys.executable, "-m", "worker"], folder / f"worker{number}.log", api.env)
            stack.callback(worker.kill)
        until(lambda: len(api.store.fleet().workers) == options.workers, 90, what="the workers")
        command = [
            options.locust, "-f", str(HERE / "locustfile.py"), "--host", f"http://127.0.0.1:{api.port}", "--headless",
            "--users", str(options.people), "--spawn-rate", "10", "--run-time", f"{options.seconds}s",
            "--only-summary", "--html", str(report),
        ]  # fmt: skip
        code = subprocess.run(command, env=os.environ | {"LOAD_KEY": api.key, "PYTHONPATH": ""}, check=False).returncode
    print(f"\nwritten: {report}")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
