"""Deadlines for clients that send slowly, and for those that do not hang up.

A thread of the server reads a request with blocking calls, so a client that sends half a request and then nothing would
hold it for ever, and as many clients as there are threads would stop the service. Each phase of reading (the head, the
body) is therefore on a list, and one watcher thread hangs up on those that take too long. When more than half of the
threads are reading, patience shrinks to a second, oldest first: slow senders can only ever be in each other's way.

A connection that the server ends is shut for writing and then read until the client has closed its side, because a close
with unread data would reset it and tear the answer's last bytes (RFC 9112, section 9.6). The same thread does that for
all of them.
"""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

TICK_S = 0.25
CROWDED_PATIENCE_S = 1.0


LINGER_S = 2.0
MOST_LINGERING = 256
MOST_DRAINED = 1 << 20


@dataclass(eq=False, slots=True)
class Lingering:
    """A connection whose answer is sent, until the client hangs up."""

    sock: socket.socket
    deadline: float
    drained: int = 0

    def over(self, now: float) -> bool:
        """Read what is there; whether the client has hung up or used up its time."""
        try:
            while self.drained < MOST_DRAINED and now < self.deadline:
                data = self.sock.recv(65_536)
                if not data:
                    return True
                self.drained += len(data)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True


@dataclass(eq=False, slots=True)
class Phase:
    """A phase of reading from one socket. ``cut`` says that the watcher hung up on it."""

    sock: socket.socket | None
    started: float
    deadline: float
    cut: bool = False

    def hang_up(self) -> None:
        self.cut = True
        if self.sock is not None:
            with suppress(OSError):  # The client was faster.
                self.sock.shutdown(socket.SHUT_RD)


class Watcher:
    """Hangs up on phases that outlast their deadline. ``crowd``: with more phases than this, patience is short."""

    def __init__(self, crowd: int) -> None:
        self.crowd = crowd
        self._phases: dict[int, Phase] = {}
        self._lingering: list[Lingering] = []
        self._ids = itertools.count()
        self._lock = threading.Lock()
        self._started = False

    @contextmanager
    def reading(self, sock: socket.socket, seconds: float) -> Iterator[Phase]:
        """Within it, reading from the socket is bounded: afterwards a blocked read sees the end of the stream."""
        phase_id = self.begin(sock, seconds)
        try:
            yield self._phases[phase_id]
        finally:
            self.end(phase_id)

    def begin(self, sock: socket.socket, seconds: float) -> int:
        """Start a phase; its number ends it."""
        now = time.monotonic()
        with self._lock:
            phase_id = next(self._ids)
            self._phases[phase_id] = Phase(sock, now, now + seconds)
            self._start()
        return phase_id

    def _start(self) -> None:
        if not self._started:
            self._started = True
            threading.Thread(target=self._run, name="read-deadlines", daemon=True).start()

    def linger(self, sock: socket.socket) -> None:
        """Close a connection whose answer was sent, without waiting for it here."""
        try:
            sock.setblocking(False)  # a method of the standard library
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            sock.close()
            return
        with self._lock:
            self._lingering.append(Lingering(sock, time.monotonic() + LINGER_S))
            self._start()

    def end(self, phase_id: int) -> None:
        """End a phase; a second time does nothing."""
        with self._lock:
            self._phases.pop(phase_id, None)

    def sweep(self) -> None:
        """Hang up on what is due now."""
        now = time.monotonic()
        self._close_lingering(now)
        with self._lock:
            waiting = [phase for phase in self._phases.values() if not phase.cut]
            for index, phase in enumerate(waiting):
                crowded = len(waiting) - index > self.crowd and now - phase.started > CROWDED_PATIENCE_S
                if crowded or now > phase.deadline:
                    phase.hang_up()

    def _close_lingering(self, now: float) -> None:
        with self._lock:
            held, self._lingering = self._lingering, []
        crowd = len(held) - MOST_LINGERING
        left = []
        for index, connection in enumerate(held):
            if index < crowd or connection.over(now):
                connection.sock.close()
            else:
                left.append(connection)
        with self._lock:
            self._lingering[:0] = left

    def _run(self) -> None:
        while True:
            time.sleep(TICK_S)
            self.sweep()


watcher = Watcher(crowd=32)
"""The process's own: sockets belong to a process, and the server's worker and the app share it. It holds no client."""


@contextmanager
def reading(sock: socket.socket | None, seconds: float) -> Iterator[Phase]:
    """A phase on the process's watcher; without a socket (a test client) nothing can be slow."""
    if sock is None:
        yield _NO_PHASE
        return
    with watcher.reading(sock, seconds) as phase:
        yield phase


_NO_PHASE = Phase(None, 0.0, 0.0)
