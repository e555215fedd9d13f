"""The real thing for tests of the SDK and the CLI: the API, a worker with the echo engine, a real server below."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.api.live import LiveApi
from tests.servers import Process, until

WORKER = {"WORKER_BEAT_S": "0.2", "WORKER_LEASE_S": "2", "RECONCILE_S": "0.2"}


class LiveStack:
    """``url`` and ``key`` are for clients. ``start_worker`` adds a worker; all of them end with the stack."""

    def __init__(self, api: LiveApi) -> None:
        self.api = api
        self.url, self.key = f"http://127.0.0.1:{api.port}", api.key
        self.processes: list[Process] = []

    @property
    def environment(self) -> dict[str, str]:
        """Of a command line that is to find it."""
        return {"SMARTTEXTGEN_URL": self.url, "SMARTTEXTGEN_API_KEY": self.key}

    def start_worker(self, **env: str) -> Process:
        """A worker that is ready."""
        process = self.start("worker", **WORKER, **env)
        pid = process.process.pid

        def announced() -> bool:
            assert process.process.poll() is None, process.output()
            return any(worker.pid == pid for worker in self.api.store.fleet().workers)

        until(announced, 60, what="a ready worker")
        return process

    def start(self, module: str, **env: str) -> Process:
        """``python -m`` a process of the platform, on this stack."""
        log = self.api.folder / f"{module}{len(self.processes)}.log"
        process = Process([sys.executable, "-m", module], log, self.api.env | env)
        self.processes.append(process)
        return process


@contextmanager
def live_stack(redis_url: str, prefix: str, folder: Path, **env: str) -> Iterator[LiveStack]:
    """A stack under a key prefix of its own, without workers."""
    with LiveApi(redis_url, prefix, folder, **env) as api:
        stack = LiveStack(api)
        try:
            yield stack
        finally:
            for process in stack.processes:
                process.kill()
