"""Keeps lists from growing without end: what Redis lets expire by itself stays in them until somebody looks."""

from __future__ import annotations

import structlog

from shared.errors import StoreUnavailableError
from shared.store.protocol import JobStore
from worker.background import Background

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

STEP = 500
"""List members that a step looks at: about a millisecond of Redis."""


class Sweeper(Background):
    """Makes a round every ``interval_s`` seconds, in small steps with pauses between them."""

    def __init__(self, store: JobStore, *, interval_s: float = 60.0, pause_s: float = 0.2) -> None:
        self._store = store
        self._interval_s = interval_s
        self._pause_s = pause_s
        super().__init__("sweeper")

    def _loop(self) -> None:
        while not self._ended.wait(self._interval_s):
            try:
                self._round()
            except StoreUnavailableError as error:
                log.warning("no sweep", reason=error.message)
            except Exception:
                log.exception("sweep failed")

    def _round(self) -> None:
        point, gone = self._store.sweep(None, STEP)
        while point is not None and not self._ended.wait(self._pause_s):
            point, count = self._store.sweep(point, STEP)
            gone += count
        if gone:
            log.info("swept", gone=gone)
