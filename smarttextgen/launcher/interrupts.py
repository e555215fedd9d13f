"""Signals of the launcher: the first asks for an orderly end, a second Ctrl-C for an end at once."""

from __future__ import annotations

import signal
import time
from types import FrameType, TracebackType
from typing import Self

# `timeout -s INT` and some wrappers send the same Ctrl-C to a process and to its group: that is one, not two.
SAME_PRESS_S = 0.3
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """A context that turns SIGINT, SIGTERM and SIGHUP into two flags. For the main thread."""

    def __init__(self) -> None:
        self._first: float | None = None
        self._kill = False
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        for number in STOP_SIGNALS:
            if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue  # nohup: the person wants it to outlive the terminal
            self._before[number] = signal.signal(number, self._received)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

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
