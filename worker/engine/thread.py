"""The thread that an engine lives on: it loads the model, says that it is there, and runs it until the end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)

_JOIN_S = 60.0


class EngineThread:
    """``main`` is called on the thread, and calls ``started`` or ``failed`` once it knows which."""

    def __init__(self, main: Callable[[], None]) -> None:
        self._thread = threading.Thread(target=main, name="engine", daemon=True)
        self._known = threading.Event()
        self._error: BaseException | None = None

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        """Returns once the engine runs. Raises: whatever it failed with; RuntimeError at a second call."""
        self._thread.start()
        self._known.wait()
        if self._error is not None:
            raise self._error

    def started(self) -> None:
        """The engine runs now."""
        self._known.set()

    def failed(self, error: BaseException) -> None:
        """It does not, or no more; of several errors the first counts."""
        self._error = self._error or error
        self._known.set()

    def join(self, drain_s: float) -> None:
        """Wait for its end, for ``drain_s`` and a little longer. On the thread itself: returns at once."""
        if not self._thread.is_alive() or self._thread is threading.current_thread():
            return
        self._thread.join(drain_s + _JOIN_S)
        if self._thread.is_alive():
            logger.error("The engine's thread has not ended %s s after its drain time.", _JOIN_S)
