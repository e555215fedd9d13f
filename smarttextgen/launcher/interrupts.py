"""Signals of the launcher: the first asks for an orderly end, a second Ctrl-C for an end at once. And its pauses, which a signal
ends, so that it need not look often."""

from __future__ import annotations

import select
import signal
import socket
import time
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Self

# `timeout -s INT` and some wrappers send the same Ctrl-C to a process and to its group: that is one, not two.
SAME_PRESS_S = 0.3
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """A context that turns SIGINT, SIGTERM and SIGHUP into two flags. For the main thread, but for ``wake``."""

    def __init__(self) -> None:
        self._woken, self._bell = socket.socketpair()
        for end in (self._woken, self._bell):
            end.setblocking(False)
        self._first: float | None = None
        self._kill = False
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        for number in STOP_SIGNALS:
            if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue  # nohup: the person wants it to outlive the terminal
            self._before[number] = signal.signal(number, self._received)
        # A child's end has to be told to wake us; who ended, the supervisor asks.
        self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._bell.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._woken.close()
        self._bell.close()

    def pause(self, seconds: float) -> None:
        """Until a signal comes, a child ends, somebody calls ``wake``, or the time is over."""
        if select.select([self._woken], [], [], seconds)[0]:
            self._woken.recv(4096)

    def wake(self) -> None:
        """End the pause, or the next one."""
        with suppress(OSError):  # so many calls that the bell is full, or nobody to hear it any more
            self._bell.send(b"\0")

    def stop_requested(self) -> bool:
        return self._first is not None

    def kill_requested(self) -> bool:
        return self._kill

    def _received(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  signal's own signature
        now = time.monotonic()
        if self._first is None:
            self._first = now
        elif number == signal.SIGINT and now - self._first > SAME_PRESS_S:
            self._kill = True
