"""The heartbeat: a daemon thread that keeps this worker on the list and learns what it has to stop.

A thread of its own, because a task would wait behind jobs and a timer of Celery's loop blocks consumption.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import structlog

from shared.errors import StoreUnavailableError
from shared.store.protocol import JobStore, WorkerInfo
from worker.runner import Runner

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Heartbeat:
    """Beats every ``interval_s`` seconds while ``healthy`` says so; the first time that it does not, ``on_sick`` is called
    and no beat follows, so that the lease runs out."""

    def __init__(
        self,
        store: JobStore,
        runner: Runner,
        info: WorkerInfo,
        *,
        interval_s: float,
        healthy: Callable[[], bool],
        on_sick: Callable[[], None],
    ) -> None:
        self._store = store
        self._runner = runner
        self._info = info
        self._interval_s = interval_s
        self._healthy = healthy
        self._on_sick = on_sick
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="heartbeat", daemon=True)

    def start(self) -> None:
        """The first beat is made here: who returns from this is on the list (or Redis is away, and it will be)."""
        self._beat()
        self._thread.start()

    def drain(self) -> None:
        """Say so with the next beat, which is made at once."""
        self._info = replace(self._info, state="draining")
        self._beat()

    def stop(self) -> None:
        """No more beats; off the list."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(10)
        try:
            self._store.depart(self._info.id)
        except StoreUnavailableError:
            log.warning("could not sign off; the lease will run out")

    def _loop(self) -> None:
        while not self._ended.wait(self._interval_s):
            if self._info.state == "ready" and not self._healthy():  # a draining engine is on its way to its end
                log.critical("the engine is not sound any more; no more heartbeats")
                self._on_sick()
                return
            self._beat()

    def _beat(self) -> None:
        try:
            for ref in self._store.beat(self._info, self._runner.running()):
                self._runner.stop(ref)
        except StoreUnavailableError as error:
            log.warning("no heartbeat", reason=error.message)
        except Exception:
            log.exception("heartbeat failed")
