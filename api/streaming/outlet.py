"""One client's end of a stream: an asyncio protocol that writes events, and notices who does not read or has gone."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Protocol

from api.streaming.places import Place
from api.streaming.sse import PING, render_error
from shared.errors import SmartTextGenError
from shared.job import JobRef

HIGH_WATER = 64 * 1024
"""Bytes that may wait for a client, beside what the kernel holds. Beyond, its events stay in Redis until it has read."""
KERNEL_BUFFER = 64 * 1024
MOST_READ = 64 * 1024
"""Bytes after its request that a client may send, all of them ignored."""
FAREWELL_S = 5.0
"""How long an ended stream may take to be read to its end."""


class Owner(Protocol):
    """Who has the outlets."""

    def resumed(self, outlet: Outlet) -> None:
        """It can take events again."""
        ...

    def gone(self, outlet: Outlet) -> None:
        """Its connection is closed, whoever did it."""
        ...


class Outlet(asyncio.Protocol):
    """Everything on the loop's thread. ``cursor``: the number of the last event that was written. ``chunked``: the framing of
    HTTP/1.1, by which a client tells an end from a broken connection."""

    def __init__(self, owner: Owner, ref: JobRef, cursor: int, place: Place, *, chunked: bool) -> None:
        self.ref = ref
        self.cursor = cursor
        self.place = place
        self._owner = owner
        self._chunked = chunked
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._read = 0
        self.opened_at = self.wrote_at = self._loop.time()
        self.stalled_since: float | None = None
        self._left = 0
        self.ending = False

    @property
    def ready(self) -> bool:
        """Whether it takes events."""
        return not self.ending and self.stalled_since is None

    # --- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=HIGH_WATER)

    def pause_writing(self) -> None:
        self.stalled_since = self._loop.time()
        self._left = self._waiting

    def resume_writing(self) -> None:
        self.stalled_since = None
        self._owner.resumed(self)

    def data_received(self, data: bytes) -> None:
        self._read += len(data)
        if self._read > MOST_READ:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.ending = True
        self._transport = None
        self._owner.gone(self)

    # --- the hub's side

    def head(self, data: bytes) -> None:
        """What comes before the body, as it is."""
        if self._transport is not None:
            self._transport.write(data)

    def write(self, data: bytes, cursor: int | None = None) -> None:
        """A part of the stream, whole events; ``cursor``: the last one's number."""
        if cursor is not None:
            self.cursor = cursor
        if self._transport is not None and not self.ending:
            self.wrote_at = self._loop.time()
            self._transport.write(b"%x\r\n%s\r\n" % (len(data), data) if self._chunked else data)

    def ping(self) -> None:
        self.write(PING)

    def end(self) -> None:
        """The stream is over; the client gets a while to read it."""
        if self._transport is None or self.ending:
            return
        if self._chunked:
            self._transport.write(b"0\r\n\r\n")
        self.ending = True
        with suppress(OSError):  # The client was faster.
            self._transport.write_eof()
        self._loop.call_later(FAREWELL_S, self.abort)

    def fail(self, error: SmartTextGenError) -> None:
        """End it before its job has ended, and say why."""
        self.write(render_error(error))
        self.end()

    def abort(self) -> None:
        """Close the connection now."""
        if self._transport is not None:
            self._transport.abort()

    def stalled_for(self, now: float) -> float:
        """Seconds for which the client has read nothing of what waits for it."""
        if self.stalled_since is None:
            return 0.0
        if self._waiting < self._left:
            self._left, self.stalled_since = self._waiting, now
        return now - self.stalled_since

    @property
    def flushed(self) -> bool:
        """Whether the kernel has all of it."""
        return self._waiting == 0

    @property
    def _waiting(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size()


def prepare(sock: socket.socket, patience_s: float) -> None:
    """Set up a client's socket: bounded memory in the kernel, and a client that is not reachable any more is an error after
    ``patience_s`` of silence and not after a quarter of an hour."""
    sock.setblocking(False)  # a method of the standard library
    with suppress(OSError):  # A test's socket is none of TCP.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BUFFER)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(patience_s * 1000))
