"""A receiver of webhooks on loopback, which answers as it is told: well, or in one of the ways in which receivers fail."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from standardwebhooks import Webhook

from tests.servers import until


@dataclass(frozen=True)
class Received:
    """A request that came in."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float = field(default_factory=time.time)

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def verify(self, secret: str) -> dict:
        """Its content, if the official package takes its signature."""
        return dict(Webhook(secret).verify(self.body, self.headers))


Behaviour = Callable[[BaseHTTPRequestHandler], None]


def answers(status: int, **headers: str) -> Behaviour:
    def behave(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return behave


def hangs(handler: BaseHTTPRequestHandler) -> None:
    handler.server.released.wait(30)  # type: ignore[attr-defined]


def drips(handler: BaseHTTPRequestHandler) -> None:
    """A header at a time, for ever."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while not handler.server.released.wait(0.05):  # type: ignore[attr-defined]
        handler.wfile.write(b"X-Drip: drop\r\n")


def drips_after_its_status(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while not handler.server.released.wait(0.05):  # type: ignore[attr-defined]
        handler.wfile.write(b".")


def gushes(handler: BaseHTTPRequestHandler) -> None:
    """A gigabyte."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n")
    part = b"x" * 65_536
    for _ in range(16_384):
        handler.wfile.write(part)
        handler.server.gushed += len(part)  # type: ignore[attr-defined]


def gushes_headers(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for _ in range(16_384):
        handler.wfile.write(b"X-Header: " + b"x" * 4_096 + b"\r\n")


def closes(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def talks_nonsense(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"220 smtp.example.com ESMTP\r\n\r\n")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        self.close_connection = True
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        if len(body) < length:  # who sends it was killed in the middle: nothing was told
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        with self.server.lock:
            self.server.received.append(Received(self.path, headers, body))
            behaviours = self.server.behaviours
            behave = behaviours.pop(0) if len(behaviours) > 1 else behaviours[0]
        with suppress(OSError):  # the courier has hung up
            behave(self)

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lock = threading.Lock()
        self.released = threading.Event()
        self.received: list[Received] = []
        self.behaviours: list[Behaviour] = [answers(200)]
        self.gushed = 0

    def handle_error(self, request: object, client_address: object) -> None:
        pass


class Receiver:
    """A server. ``behaves``: what it does with the next requests; the last one with all that follow."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._server = _Server()
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def behaves(self, *behaviours: Behaviour) -> None:
        self._server.behaviours = list(behaviours)

    @property
    def received(self) -> list[Received]:
        with self._server.lock:
            return list(self._server.received)

    @property
    def gushed(self) -> int:
        return self._server.gushed

    def wait_for(self, count: int, timeout_s: float = 15) -> list[Received]:
        until(lambda: len(self.received) >= count, timeout_s, every_s=0.01, what=f"{count} requests")
        return self.received

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
