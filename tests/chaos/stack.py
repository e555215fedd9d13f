"""The platform under test: a server, the API and workers as processes, and a supervisor that starts again what died, as an
operator's would. Every process is stopped by the id it was started with."""

from __future__ import annotations

import http.client
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import redis

from shared.keys import NewKey, RedisKeyStore
from tests.servers import Process, RedisServer, find_redis_server, free_port, until
from tests.webhooks.receiver import Receiver

PREFIX = "chaos"
KEYS = "{chaos}:"
MODEL = "demo"
WORKERS = 3
TENANTS = ("calm", "busy")
"""The clients of ``calm`` only submit and read, so that its sums are exact; those of ``busy`` cancel, retry and delete."""
RESTART_AFTER_S = 0.3


@dataclass
class Kept:
    """A process that the supervisor keeps alive. ``exits``: process id and exit code of each that died."""

    name: str
    arguments: list[str]
    process: Process | None = None
    starts: int = 0
    exits: list[tuple[int, int]] = field(default_factory=list)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.process.pid

    def alive(self) -> bool:
        return self.process is not None and self.process.process.poll() is None


class Stack:
    """Start with ``with``. ``client`` is the suite's own connection to Redis, for faults and the audit."""

    def __init__(self, folder: Path, *, workers: int = WORKERS, **env: str) -> None:
        binary = find_redis_server()
        assert binary, "the chaos suite needs a redis-server or valkey-server"
        self.folder = folder
        # ``always``: an acknowledged write is on disk, so whatever is missing after a kill of the server was lost by us.
        # With ``everysec`` a write may wait for up to 2 s behind an fsync, and the kill would take it along.
        self.server = RedisServer(binary, folder, "--appendfsync", "always")
        self.client = redis.Redis(port=self.server.port, decode_responses=True, socket_timeout=1, protocol=2)
        self.api_port = free_port()
        self.env = {
            "REDIS_URL": self.server.url, "REDIS_PREFIX": PREFIX, "REDIS_TIMEOUT_S": "1", "API_PORT": str(self.api_port),
            "MODEL_NAME": MODEL, "ENGINE": "echo", "ENGINE_SLOTS": "8", "ECHO_TOKEN_DELAY_S": "0.02",
            "WORKER_BEAT_S": "0.5", "WORKER_LEASE_S": "2", "RECONCILE_S": "0.5", "HINT_GRACE_S": "1", "WORKER_DRAIN_S": "1",
            "HISTORY_MAX_TURNS": "1000", "LOG_FORMAT": "json", "WEBHOOK_ALLOWLIST": "127.0.0.1", **env,
        }  # fmt: skip
        self.api = Kept("api", [sys.executable, "-m", "api"])
        self.workers = [Kept(f"worker{n}", [sys.executable, "-m", "tests.chaos.poisoned"]) for n in range(workers)]
        self.courier = Kept("courier", [sys.executable, "-m", "worker.courier"])
        self.receiver = Receiver()
        self.keys: dict[str, tuple[str, str]] = {}
        """tenant -> (key id, secret)"""
        self._ended = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor", daemon=True)

    def __enter__(self) -> Self:
        self.server.start()
        self.receiver.__enter__()
        for tenant in TENANTS:
            new = NewKey(tenant, requests_per_minute=10_000_000, max_queued=1_000_000)
            key, secret = RedisKeyStore(self.client, KEYS).create(new)
            self.keys[tenant] = (key.id, secret)
        try:
            for kept in self.kept:
                self._start(kept)
            until(self.answers, 60, what="the API")
            until(lambda: len(self.live_workers()) == len(self.workers), 60, what="the workers")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        self._supervisor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._supervisor.is_alive():
            self._supervisor.join(10)
        for kept in self.kept:
            self.kill(kept)
        self.receiver.__exit__(kind, error, trace)
        self.client.close()
        self.server.stop()

    @property
    def kept(self) -> tuple[Kept, ...]:
        return (self.api, self.courier, *self.workers)

    def _start(self, kept: Kept) -> None:
        kept.starts += 1
        kept.process = Process(kept.arguments, self.folder / f"{kept.name}.log", self.env)

    def _supervise(self) -> None:
        while not self._ended.wait(0.1):
            for kept in self.kept:
                if not kept.alive() and not self._ended.is_set():
                    assert kept.process is not None
                    kept.exits.append((kept.pid, kept.process.process.returncode))
                    time.sleep(RESTART_AFTER_S)
                    self._start(kept)

    def family(self, kept: Kept) -> list[psutil.Process]:
        """A process of ours and its children (gunicorn's workers)."""
        try:
            parent = psutil.Process(kept.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill(self, kept: Kept) -> None:
        """kill -9, children too: at once, as when the machine goes."""
        for process in self.family(kept):
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        if kept.process:
            kept.process.process.wait(10)

    def send(self, kept: Kept, number: signal.Signals) -> None:
        if kept.alive():
            assert kept.process is not None
            kept.process.process.send_signal(number)

    def answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.api_port, timeout=2)
        try:
            connection.request("GET", "/livez")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def live_workers(self) -> set[str]:
        return {key.removeprefix(f"{KEYS}worker:") for key in self.client.scan_iter("[{]chaos}:worker:*", count=1000)}

    def logs(self, name: str) -> list[str]:
        return (self.folder / f"{name}.log").read_text(errors="replace").splitlines()
