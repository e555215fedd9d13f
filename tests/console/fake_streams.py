"""Event streams as a test writes them: what a real server does rarely, such as cutting a connection in the middle."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

GATE_S = 20


def event(number: int | None, kind: str, data: Any) -> str:
    """One event on the wire."""
    head = "" if number is None else f"id: {number}\n"
    return f"{head}event: {kind}\ndata: {json.dumps(data)}\n\n"


class FakeStreams:
    """Answers each connection with the next of ``connections``: a status, or a list of texts to send and gates to wait for.
    ``asked``: the Last-Event-ID of each."""

    def __init__(self) -> None:
        self.connections: list[int | list[str | threading.Event]] = []
        self.asked: list[str | None] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fake.asked.append(self.headers.get("Last-Event-ID"))
                steps = fake.connections.pop(0) if fake.connections else 503
                if isinstance(steps, int):
                    self._refuse(steps)
                    return
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream; charset=utf-8")
                self.end_headers()
                for step in steps:
                    if isinstance(step, str):
                        self.wfile.write(step.encode())
                        self.wfile.flush()
                    else:
                        step.wait(GATE_S)

            def _refuse(self, status: int) -> None:
                body = json.dumps({"error": {"message": "No.", "type": "x", "param": None, "code": "refused"}}).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: Any) -> None:
                """Nothing on the terminal."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/"

    @contextmanager
    def serving(self) -> Iterator[FakeStreams]:
        self._thread.start()
        yield self
        self._server.shutdown()
        self._thread.join(5)
        self._server.server_close()
