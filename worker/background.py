"""A worker's daemon threads: started with it, and ended before it goes."""

from __future__ import annotations

import threading


class Background:
    """A daemon thread that runs ``_loop`` until ``_ended`` is set."""

    def __init__(self, name: str) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end, and wait a while for it."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def _loop(self) -> None:
        raise NotImplementedError
