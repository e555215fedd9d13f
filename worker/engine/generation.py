"""The handle of a submitted request: one side waits on it, the engine's thread completes it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from worker.engine.protocol import EngineResult


class PendingGeneration:
    """A ``Generation``. The first of ``complete`` and ``fail`` wins; later ones are ignored."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._result: EngineResult | None = None
        self._error: Exception | None = None
        self._on_cancel: Callable[[], None] | None = None

    def result(self, timeout_s: float | None = None) -> EngineResult:
        if not self._ended.wait(timeout_s):
            raise TimeoutError(f"The generation has not ended after {timeout_s} s.")
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def cancel(self) -> None:
        action = self._on_cancel
        if action is not None:
            action()

    def done(self) -> bool:
        return self._ended.is_set()

    def when_canceled(self, action: Callable[[], None]) -> None:
        """The engine's way to hear of ``cancel``; set before the handle is given to the caller."""
        self._on_cancel = action

    def complete(self, result: EngineResult) -> None:
        if not self._ended.is_set():
            self._result = result
            self._end()

    def fail(self, error: Exception) -> None:
        if not self._ended.is_set():
            self._error = error
            self._end()

    def _end(self) -> None:
        self._on_cancel = None  # nothing to cancel any more, and no reference to the engine's state
        self._ended.set()
