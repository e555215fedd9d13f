"""A real API, a real worker with the echo engine, a real Redis: where a stream comes from and goes to."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.api.live import LiveApi
from tests.servers import Process, until

MODES = '[general]\ndescription = "The prompt itself: nothing that could stop an echo."\n' + "".join(
    f'[general.{language}]\nsystem = "-"\ntemplate = "{{input}}"\nturn = "{{input}}{{output}}"\n'
    for language in ("en", "zh-Hant")
)


def make_api(redis_url: str, folder: Path, **env: str) -> LiveApi:
    """An API under a key prefix of its own, not started."""
    modes = folder / "modes.toml"
    modes.write_text(MODES)
    return LiveApi(redis_url, f"t{secrets.token_hex(4)}", folder, MODES_FILE=str(modes), **env)


class Stack:
    """``api`` and any number of workers on one Redis."""

    def __init__(self, api: LiveApi, folder: Path, **env: str) -> None:
        self.api, self.folder, self.env = api, folder, env
        self.workers: list[Process] = []

    def start_worker(self, **env: str) -> Process:
        """A worker that has announced itself."""
        options = {"WORKER_BEAT_S": "0.2", "WORKER_LEASE_S": "1.5", "RECONCILE_S": "0.2", "ECHO_TOKEN_DELAY_S": "0.004"}
        process = Process(
            [sys.executable, "-m", "worker"],
            self.folder / f"worker{len(self.workers)}.log",
            self.api.env | options | self.env | env,
        )
        self.workers.append(process)

        def ready() -> bool:
            assert process.process.poll() is None, process.output()
            return any(worker.pid == process.process.pid for worker in self.api.store.fleet().workers)

        until(ready, 60, what="a worker")
        return process

    def submit(self, prompt: str = "héllo 你好 🙂 ", **options) -> str:
        body = {"prompt": prompt, "max_length": 100, "cache": False, **options}
        answer = self.api.call("POST", "/api/generate", body)
        assert answer.status == 202, answer.body
        return answer.json["id"]

    def job(self, job_id: str) -> dict:
        return self.api.call("GET", f"/api/jobs/{job_id}").json

    def until_ended(self, job_id: str) -> dict:
        return self.api.call("GET", f"/api/jobs/{job_id}?wait=20").json


@pytest.fixture
def start_stack(tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    """Starts an API on a Redis; stops it and its workers."""
    started: list[Stack] = []

    def start(redis_url: str, **env: str) -> Stack:
        api = make_api(redis_url, tmp_path, **env)
        api.__enter__()
        started.append(Stack(api, tmp_path))
        return started[-1]

    yield start
    for stack in started:
        for worker in stack.workers:
            worker.kill()
        stack.api.__exit__(None, None, None)


@pytest.fixture(scope="module")
def stack(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One for all tests of a module that leave it as it was."""
    folder = tmp_path_factory.mktemp("streams")
    with make_api(redis_url, folder, STREAM_PING_S="0.5", MAX_STREAMS_PER_KEY="20") as api:
        stack = Stack(api, folder)
        stack.start_worker()
        yield stack
        for worker in stack.workers:
            worker.kill()
