"""gunicorn's threaded worker, with deadlines for slow senders, JSON errors, and a drain that the app knows of."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from functools import partial
from http import HTTPStatus
from typing import Any

from gunicorn.workers.gthread import _DEFER, TConn, ThreadWorker  # type: ignore[import-untyped]  # ships no types

from api.deadlines import watcher
from api.services import EXTENSION
from api.streaming.response import HAND_OVER, HandedOver

HEAD_DEADLINE_S = 10.0
SEND_TIMEOUT_S = 30
FIRST_BYTE_S = 0.05
DRAIN_S = 0.25
DRAIN_PATIENCE_S = 5.0


class DeadlineWorker(ThreadWorker):  # type: ignore[misc]  # the same
    """See ``api.deadlines``: a client that sends or reads slowly cannot keep a thread."""

    wsgi: Any

    def init_process(self) -> None:
        watcher.crowd = max(1, self.cfg.threads // 2)
        self._heads: dict[int, int] = {}
        self._draining: threading.Thread | None = None
        super().init_process()

    def load_wsgi(self) -> None:
        super().load_wsgi()
        self.application: Any = self.wsgi
        self.wsgi = self._offer

    def _offer(self, environ: dict[str, Any], start_response: Any) -> Any:
        environ[HAND_OVER] = True
        return self.application(environ, start_response)

    def run(self) -> None:
        super().run()
        if self._draining is not None:
            self._draining.join(DRAIN_PATIENCE_S)

    def handle(self, conn: TConn) -> Any:
        if not conn.initialized and not conn.wait_for_data(FIRST_BYTE_S):
            return _DEFER  # gunicorn would wait for five seconds, in which silent clients hold all threads
        conn.close = partial(_close, conn)
        _bound_sending(conn.sock)
        self._heads[id(conn)] = watcher.begin(conn.sock, HEAD_DEADLINE_S)
        try:
            return super().handle(conn)
        finally:
            self._head_read(conn)

    def handle_request(self, req: Any, conn: TConn) -> Any:
        self._head_read(conn)
        try:
            return super().handle_request(req, conn)
        except HandedOver:
            return False  # gunicorn closes what it has left of the connection, which is nothing

    def _head_read(self, conn: TConn) -> None:
        phase = self._heads.pop(id(conn), None)
        if phase is not None:
            watcher.end(phase)

    def _keepalive_after(self, conn: TConn, keepalive: bool) -> bool:  # gunicorn's
        """A body that nobody read (of a request without a key) is read to go on with the connection, but only if it is
        there already: gunicorn would hold a thread for it for five seconds."""
        return bool(keepalive and conn.parser.finish_body(deadline=time.monotonic() + DRAIN_S))

    def handle_exit(self, sig: int, frame: Any) -> None:
        super().handle_exit(sig, frame)
        # A thread, because a signal handler must not wait for a lock that the interrupted code may hold.
        if self._draining is None:
            self._draining = threading.Thread(target=self._drain, name="drain", daemon=True)
            self._draining.start()

    def _drain(self) -> None:
        app = getattr(self, "application", None)
        if app is not None:
            app.extensions[EXTENSION].drain()

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """What is not even HTTP: gunicorn's status and log line, with our body."""
        said = _Said()
        super().handle_error(req, said, addr, exc)
        client.sendall(_as_json(said.status))


class _Said:
    """Takes gunicorn's error page in place of the socket, for its status."""

    def __init__(self) -> None:
        self._data = b""

    def gettimeout(self) -> float | None:
        return None

    def setblocking(self, flag: bool) -> None: ...

    def sendall(self, data: bytes) -> None:
        self._data += data

    @property
    def status(self) -> int:
        try:
            return int(self._data.split(b" ", 2)[1])
        except (IndexError, ValueError):
            return 400


def _as_json(status: int) -> bytes:
    phrase = HTTPStatus(status).phrase
    code = "internal_error" if status >= 500 else "malformed_request"
    kind = "api_error" if status >= 500 else "invalid_request_error"
    detail = {"message": f"{phrase}.", "type": kind, "param": None, "code": code}
    body = json.dumps({"error": detail}).encode()
    head = (
        f"HTTP/1.1 {status} {phrase}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("latin-1") + body


def _close(conn: TConn, graceful: bool = False) -> None:  # gunicorn's
    """In place of gunicorn's close, which waits for the client on the one thread that accepts connections: for two
    seconds a client that does not hang up, one after the other."""
    if graceful:
        watcher.linger(conn.sock)
    else:
        conn.sock.close()


def _bound_sending(sock: socket.socket) -> None:
    """A client that does not read its answer is given up after a while. The kernel's own limit: it leaves the socket
    blocking, as gunicorn wants it."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_TIMEOUT_S, 0))
