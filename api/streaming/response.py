"""The answer that is a stream: its socket goes from the server's thread to the hub."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING

from flask import Response

from api.streaming.hub import Hub, Opening

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

HAND_OVER = "smarttextgen.hand_over"
"""In a request's environment: this server lets go of ``gunicorn.socket`` where it meets HandedOver."""
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class HandedOver(BaseException):
    """The connection is somebody else's now. Not an Exception, so that nobody answers on it with an error page."""


class StreamResponse(Response):
    """``text/event-stream``. opening: what is written first; its place is given back where the stream never begins."""

    def __init__(self, hub: Hub, opening: Opening) -> None:
        super().__init__(headers=HEADERS, mimetype="text/event-stream")
        self.headers.remove("Content-Length")
        self._hub = hub
        self._opening: Opening | None = opening
        self.call_on_close(self._give_up)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "HEAD":
            self._give_up()
            return super().__call__(environ, start_response)
        return _Body(self, environ, start_response)

    def hand_over(self, environ: WSGIEnvironment) -> None:
        """To the hub, head and all. The server has written nothing."""
        chunked = environ["SERVER_PROTOCOL"] != "HTTP/1.0"
        lines = [
            f"HTTP/1.1 {HTTPStatus.OK} {HTTPStatus.OK.phrase}",
            f"Date: {formatdate(usegmt=True)}",
            "Connection: close",
            *(["Transfer-Encoding: chunked"] if chunked else []),
            *(f"{name}: {value}" for name, value in self.headers.items()),
        ]
        sock = socket.socket(fileno=environ["gunicorn.socket"].detach())
        self._begin(sock, "\r\n".join([*lines, "", ""]).encode("latin-1"), chunked=chunked)

    def pipe(self) -> Iterator[bytes]:
        """For a server that does not let go of its sockets (a test client): the same stream through a pair of ours."""
        ours, hubs = socket.socketpair()
        with ours:
            self._begin(hubs, b"", chunked=False)
            while data := ours.recv(65_536):
                yield data

    def _begin(self, sock: socket.socket, head: bytes, *, chunked: bool) -> None:
        opening, self._opening = self._opening, None
        assert opening is not None
        self._hub.adopt(sock, opening.framed(head, chunked=chunked))

    def _give_up(self) -> None:
        if self._opening is not None:
            self._opening.place.give_back()


class _Body:
    """What the server iterates over."""

    def __init__(self, response: StreamResponse, environ: WSGIEnvironment, start_response: StartResponse) -> None:
        self._response = response
        self._environ = environ
        self._pipe: Iterator[bytes] | None = None
        if HAND_OVER not in environ:
            start_response(response.status, response.headers.to_wsgi_list())
            self._pipe = response.pipe()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._pipe is None:
            self._response.hand_over(self._environ)
            raise HandedOver
        return next(self._pipe)

    def close(self) -> None:
        with suppress(AttributeError):
            self._pipe.close()  # type: ignore[union-attr]
        self._response.close()
