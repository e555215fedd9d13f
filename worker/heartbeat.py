"""The heartbeat and the reconciler: daemon threads that keep this worker on the list, learn what it has to stop, and put
right what nobody else will.

Threads of their own, because a task would wait behind jobs and a timer of Celery's loop blocks consumption.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog

from shared.errors import StoreUnavailableError
from shared.store.protocol import Hint, JobStore, Patience, Stop, WorkerInfo
from worker.background import Background
from worker.engine.protocol import Engine
from worker.runner import Runner

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

RELISTEN_S = 1.0


class Heartbeat(Background):
    """Beats every ``interval_s`` seconds while ``healthy`` says so; the first time that it does not, ``on_sick`` is called
    and no beat follows, so that the lease runs out. ``on_drain`` is called once, when an operator wants this worker to drain."""

    def __init__(
        self,
        store: JobStore,
        runner: Runner,
        info: WorkerInfo,
        *,
        interval_s: float,
        healthy: Callable[[], bool],
        on_sick: Callable[[], None],
        on_drain: Callable[[], None],
    ) -> None:
        self._store = store
        self._runner = runner
        self._info = info
        self._interval_s = interval_s
        self._healthy = healthy
        self._on_sick = on_sick
        self._on_drain = on_drain
        self._told_to_drain = False
        super().__init__("heartbeat")

    def start(self) -> None:
        """The first beat is made here: who returns from this is on the list (or Redis is away, and it will be)."""
        self._beat()
        super().start()

    def drain(self) -> None:
        """Say so with the next beat, which is made at once."""
        self._info = replace(self._info, state="draining")
        self._beat()

    def _loop(self) -> None:
        while not self._ended.wait(self._interval_s):
            if self._info.state == "ready" and not self._healthy():  # a draining engine is on its way to its end
                log.critical("the engine is not sound any more; no more heartbeats")
                self._on_sick()
                return
            self._beat()

    def _beat(self) -> None:
        try:
            orders = self._store.beat(self._info, self._runner.running())
            for ref, why in orders.stops.items():
                self._runner.stop(ref, why)
            if orders.drain and not self._told_to_drain:
                self._told_to_drain = True
                self._on_drain()
        except StoreUnavailableError as error:
            log.warning("no heartbeat", reason=error.message)
        except Exception:
            log.exception("heartbeat failed")


class Reconciler(Background):
    """Asks the store to put things right every ``interval_s`` seconds, and sends the hints that come of it. Every worker has
    one; the store sees to it that their passes do not add up."""

    def __init__(
        self, store: JobStore, send: Callable[[Sequence[Hint]], None], patience: Patience, *, interval_s: float
    ) -> None:
        self._store = store
        self._send = send
        self._patience = patience
        self._interval_s = interval_s
        super().__init__("reconciler")

    def _loop(self) -> None:
        while not self._ended.wait(self._interval_s):
            try:
                done = self._store.reconcile(self._patience)
                self._send(done.hints)
            except StoreUnavailableError as error:
                log.warning("no reconciliation", reason=error.message)
                continue
            except Exception:
                log.exception("reconciliation failed")
                continue
            for worker in done.reaped:
                log.error("a worker is gone; its jobs wait again", worker=worker)


class StopListener(Background):
    """Hears at once what a beat would say within its interval: a job that this worker runs was canceled."""

    def __init__(self, store: JobStore, runner: Runner, worker: str) -> None:
        self._store = store
        self._runner = runner
        self._worker = worker
        super().__init__("stop-listener")

    def _loop(self) -> None:
        while not self._ended.is_set():
            try:
                self._store.listen_for_stops(
                    self._worker, lambda ref: self._runner.stop(ref, Stop.CANCELED), self._ended
                )
            except StoreUnavailableError as error:
                log.warning("no news of canceled jobs; the heartbeat brings them", reason=error.message)
                self._ended.wait(RELISTEN_S)
            except Exception:
                log.exception("listening for canceled jobs failed")
                self._ended.wait(RELISTEN_S)


class Pulse:
    """Says whether an engine lives: it is sound, and it advances or has nothing to do. One that neither steps nor idles for
    ``hang_s`` seconds hangs (a device that does not answer), and must lose its lease."""

    def __init__(self, engine: Engine, hang_s: float) -> None:
        self._engine = engine
        self._hang_s = hang_s
        self._steps = -1
        self._since = time.monotonic()

    def __call__(self) -> bool:
        stats = self._engine.stats()
        if stats.steps != self._steps or stats.running + stats.waiting == 0:
            self._steps = stats.steps
            self._since = time.monotonic()
        return self._engine.healthy() and time.monotonic() - self._since < self._hang_s
