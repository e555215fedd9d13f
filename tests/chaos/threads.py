"""Threads of a trial. One that breaks says so in the report."""

from __future__ import annotations

import threading


class TrialThread(threading.Thread):
    """Runs ``_run``; ``broke`` is what ended it before its time. ``halt``: it is to end."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.halt = threading.Event()
        self.broke: BaseException | None = None

    def run(self) -> None:
        try:
            self._run()
        except BaseException as error:
            self.broke = error
            raise

    def _run(self) -> None:
        raise NotImplementedError
