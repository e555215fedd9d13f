"""A real server process, and clients that behave and misbehave."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from shared.keys import NewKey, RedisKeyStore
from shared.settings import Settings, load_settings
from shared.store.connection import connect, key_prefix
from shared.store.redis import RedisStore
from shared.store.retention import Retention
from tests.servers import Process, free_port, until


class Answer:
    """A response that was read to its end."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class LiveApi:
    """``python -m api`` on a free port, with a key of the tenant shop that may do everything."""

    def __init__(self, redis_url: str, prefix: str, folder: Path, **env: str) -> None:
        self.port = free_port()
        self.folder = folder
        self.env = {
            "REDIS_URL": redis_url, "REDIS_PREFIX": prefix, "API_PORT": str(self.port), "MODEL_NAME": "demo",
            "ENGINE": "echo", **env,
        }  # fmt: skip
        self.settings: Settings = load_settings(redis_url=redis_url, redis_prefix=prefix, model_name="demo")
        self.redis = connect(self.settings)
        self.store = RedisStore(self.redis, key_prefix(self.settings), Retention.of(self.settings))
        self.key = ""

    def __enter__(self) -> Self:
        keys = RedisKeyStore(self.redis, key_prefix(self.settings))
        self.key = keys.create(NewKey("shop", scopes=frozenset({"generate", "admin"})))[1]
        try:
            self.start()
        except AssertionError:
            self.__exit__(None, None, None)
            raise AssertionError(self.process.output()) from None
        return self

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self.process = Process(
            [sys.executable, "-W", "error::ResourceWarning", "-m", "api"], self.folder / "api.log", self.env
        )
        until(self._ready, 30, what="the API")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.redis.close()
        self.stop()

    def stop(self) -> int:
        """Stop the server as an operator does; its exit code."""
        if self.process.process.poll() is None:
            self.process.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)

    def _ready(self) -> bool:
        assert self.process.process.poll() is None
        try:
            return self.call("GET", "/livez").status == 200
        except OSError:
            return False

    def call(self, method: str, path: str, body: Any = None, *, timeout: float = 30, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            return self.on(connection, method, path, body, **headers)
        finally:
            connection.close()

    def on(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: Any = None, **headers: str
    ) -> Answer:
        """A request on a connection that stays open."""
        sent = {"X-API-Key": self.key} | {name.replace("_", "-"): value for name, value in headers.items()}
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        connection.request(method, path, data, sent)
        response = connection.getresponse()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())

    def raw(self, data: bytes, *, timeout: float = 30) -> Answer:
        """Bytes as they are, and the answer to them."""
        with self.open(data) as sock:
            sock.settimeout(timeout)
            response = http.client.HTTPResponse(sock)
            response.begin()
            headers = {name.lower(): value for name, value in response.getheaders()}
            with response:
                return Answer(response.status, headers, response.read())

    def open(self, data: bytes) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        sock.sendall(data)
        return sock

    def head(self, path: str = "/api/generate", *more: str, method: str = "POST") -> bytes:
        """A request's head, with the key and ``more`` header lines, up to the empty line."""
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: x",
            f"X-API-Key: {self.key}",
            "Content-Type: application/json",
            *more,
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.process.pid).children()


class Monitor:
    """The commands that clients send to Redis, without those that scripts make themselves."""

    def __init__(self, port: int) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port))
        self._sock.sendall(b"MONITOR\r\n")
        self.lines: list[str] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._sock.makefile("r", errors="replace") as stream:
            try:
                for line in stream:
                    if " lua]" not in line:
                        self.lines.append(line)
            except OSError:
                return

    def scripts(self, seconds: float = 0.3) -> list[str]:
        """The script calls so far."""
        time.sleep(seconds)
        return [line for line in self.lines if '"EVALSHA"' in line.upper()]

    def close(self) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._sock.close()
