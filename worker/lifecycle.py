"""A worker process's life as a Celery bootstep: load, warm, ready, drain, gone.

The step runs in the worker's own blueprint, before its consumer: no job is taken before the model is loaded and warm.
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from celery import Celery, bootsteps
from celery.worker import state as celery_state

from shared.errors import ConfigurationError, SmartTextGenError, StoreUnavailableError
from shared.job import JobRef
from shared.modes import load_modes
from shared.queue import offer_hints
from shared.settings import Settings
from shared.store.protocol import Hint, JobStore, ModelInfo, Patience, WorkerInfo
from shared.traces import traces_of
from worker.engine.protocol import Engine
from worker.flower_events import GatheredEvents
from worker.heartbeat import Heartbeat, Pulse, Reconciler, StopListener
from worker.metrics import WorkerMetrics
from worker.pool import WakingThreadPool
from worker.prompts import PromptBuilder
from worker.publisher import Publisher
from worker.runner import Runner, StorePatience

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

EXIT_CONFIGURATION = 78
"""EX_CONFIG of sysexits.h: a setting is wrong, and starting again will not help."""
EXIT_UNAVAILABLE = 75
"""EX_TEMPFAIL: no Redis answers; start again later."""
EXIT_MODEL = 69
"""EX_UNAVAILABLE: the model could not be loaded."""
EXIT_ENGINE = 70
"""EX_SOFTWARE: the engine broke while running; start again."""


SPARE_THREADS = 4
"""Jobs held over the engine's slots: those served from the cache, or writing their end, need no slot."""
MOST_THREADS = 1024 + SPARE_THREADS
"""The pool's size. How many jobs are really held is set once the engine has said how many slots there are; threads
come to be only as they are needed."""
IDLE_PATIENCE_S = 30.0
"""How long the last results may take to be written once the engine has ended."""


class Worker:
    """What one worker process is made of. ``start`` builds the engine and the rest.

    build_engine: called once, in the worker process; other Celery commands load the app too and must load no model.
    require_server: called first; raises StoreUnavailableError where there is no Redis, ConfigurationError where there is one
    that jobs cannot be trusted to.
    """

    def __init__(
        self,
        settings: Settings,
        store: JobStore,
        build_engine: Callable[[], Engine],
        celery: Celery,
        require_server: Callable[[], None],
    ) -> None:
        self.settings = settings
        self.id = settings.worker_name or f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._store = store
        self._build_engine = build_engine
        self._require_server = require_server
        self._celery = celery
        self._metrics = WorkerMetrics(settings.public_model_name)
        self._engine: Engine | None = None
        self._runner: Runner | None = None
        self._publisher: Publisher | None = None
        self._heartbeat: Heartbeat | None = None
        self._reconciler: Reconciler | None = None
        self._listener: StopListener | None = None
        self._drain: threading.Thread | None = None
        self._holding = False
        self._held: list[Hint] = []
        self._sick = False
        self._told = False

    def run_job(self, ref: JobRef) -> None:
        """What the task does."""
        assert self._runner is not None, "a task ran before the worker was ready"
        self._runner.run(ref)

    def start(self) -> int:
        """Load and warm the model, then announce. Returns the engine's slots. Raises: ModelLoadError, ConfigurationError,
        StoreUnavailableError."""
        self._require_server()
        modes = load_modes(self.settings.modes_file)
        self._metrics.port.open(self.settings.metrics_host, self.settings.metrics_port)
        engine = self._engine = self._build_engine()
        self._metrics.watch(engine)
        engine.start()
        prompts = PromptBuilder(engine, modes)
        self._publisher = Publisher(
            self._store,
            self.id,
            flush_s=self.settings.events_flush_ms / 1000,
            unwatched_s=self.settings.events_unwatched_flush_ms / 1000,
        )
        self._runner = Runner(
            self._store,
            engine,
            prompts,
            self.id,
            self.send,
            self.settings.public_model_name,
            self._publisher,
            self._metrics,
            log_prompts=self.settings.log_prompts,
            traces=traces_of(self.settings, "worker"),
        )
        self._heartbeat = Heartbeat(
            self._store,
            self._runner,
            self._announcement(engine, prompts),
            interval_s=self.settings.worker_beat_s,
            healthy=Pulse(engine, self.settings.worker_hang_s),
            on_sick=self._give_up,
            on_drain=self._leave,
        )
        self._reconciler = Reconciler(
            self._store,
            self.send,
            Patience(self.settings.hint_grace_s, self.settings.priority_age_s, self.settings.max_crashes),
            interval_s=self.settings.reconcile_s,
        )
        self._listener = StopListener(self._store, self._runner, self.id)
        self._publisher.start()
        self._heartbeat.start()
        self._reconciler.start()
        self._listener.start()
        log.info("worker ready", worker=self.id, model=self.settings.public_model_name, slots=engine.info.slots)
        return engine.info.slots

    def _announcement(self, engine: Engine, prompts: PromptBuilder) -> WorkerInfo:
        info = engine.info
        tokenizer = engine.tokenizer_json()
        digest = hashlib.sha256(tokenizer).hexdigest() if tokenizer else None
        if tokenizer and digest:
            StorePatience()(self._store.put_tokenizer)(digest, tokenizer)
        model = ModelInfo(
            name=self.settings.public_model_name,
            revision=info.revision,
            engine=info.engine,
            device=info.device,
            dtype=info.dtype,
            context_length=info.context_length,
            tokenizer_digest=digest,
            mode_tokens=prompts.overheads(),
            vocab_size=info.vocab_size,
            adapters=info.adapters,
        )
        return WorkerInfo(self.id, model, info.slots, "ready", socket.gethostname(), os.getpid())

    def _give_up(self) -> None:
        """End this process from the heartbeat's thread: a fresh one will load the model again. By force after a lease's
        time, for a thread that hangs in its device cannot be waited for."""
        self._sick = True
        celery_state.should_stop = EXIT_ENGINE  # type: ignore[assignment]  # its stubs know only its first value
        by_force = threading.Timer(self.settings.worker_lease_s, os._exit, (EXIT_ENGINE,))
        by_force.daemon = True
        by_force.start()

    def _leave(self) -> None:
        """An operator wants this worker gone: what a first SIGTERM does. Called in the heartbeat's thread."""
        log.info("told to drain")
        self.drain(self.settings.worker_drain_s)
        if not celery_state.should_stop:
            celery_state.should_stop = 0  # type: ignore[assignment]  # as above

    def signaled(self, *, at_once: bool) -> None:
        """Told to stop: drain for the set time. Told again, or told so: hand back at once what still runs. Called in a
        signal handler, so it may interrupt itself."""
        told_before, self._told = self._told, True
        if not told_before:
            self.drain(0 if at_once else self.settings.worker_drain_s)
        elif self._engine is not None:
            log.warning("handing back at once")
            threading.Thread(target=self._engine.shutdown, args=(0,), name="hurry", daemon=True).start()

    def drain(self, seconds: float) -> None:
        """Take nothing new, give what runs its time, hand the rest back; returns at once. Only the first call counts."""
        if self._engine is None or self._drain is not None:
            return
        log.info("draining", seconds=seconds, running=len(self._runner.running()) if self._runner else 0)
        if self._runner and self._heartbeat:
            self._holding = True
            self._runner.close()
            self._heartbeat.drain()
        self._drain = threading.Thread(target=self._engine.shutdown, args=(seconds,), name="drain", daemon=True)
        self._drain.start()

    def stop(self) -> None:
        """Wait until the drain is over and the last result is written, then sign off."""
        self.drain(0)
        self._holding = False  # the consumer has stopped before this step
        self.send(self._held)
        if self._drain:
            self._drain.join()
        deadline = time.monotonic() + IDLE_PATIENCE_S
        while self._runner and self._runner.running() and time.monotonic() < deadline:
            time.sleep(0.02)
        for thread in (self._publisher, self._listener, self._reconciler, self._heartbeat):
            if thread:
                thread.stop()
        self._metrics.port.close()
        if self._sick:
            return  # its lease runs out, so that a crash is counted: what it still runs may be what broke it
        try:
            self.send(self._store.depart(self.id))
        except StoreUnavailableError:
            log.warning("could not sign off; the lease will run out")
        log.info("worker gone", worker=self.id)

    def send(self, hints: Sequence[Hint]) -> None:
        """Send hints, or leave it to the reconciler. Between the signal and the end of this worker's own consumer they are
        held back: it would be the one that hears them, and it claims nothing any more."""
        if self._holding:
            self._held += hints
            return
        offer_hints(self._celery, hints, prefix=self.settings.redis_prefix)


def install(celery: Celery, worker: Worker) -> None:
    """Add the step to a Celery app's worker."""

    class LifecycleStep(bootsteps.StartStopStep):
        """Starts before the consumer, which is always the last, takes its first message. Stops before the pool does: the
        drain has to be over first, since the pool would wait for its tasks without end."""

        requires = ("celery.worker.components:Pool",)

        def __init__(self, parent: Any, **kwargs: Any) -> None:
            super().__init__(parent, **kwargs)
            refuse_other_pools(parent.pool_cls)

        def start(self, parent: Any) -> None:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
                signal.signal(number, self.signaled)
            try:
                # What worker_disable_prefetch reads: no more hints are taken than this.
                parent.max_concurrency = worker.start() + SPARE_THREADS
            except ConfigurationError as error:
                stop_with(error, EXIT_CONFIGURATION)
            except StoreUnavailableError as error:
                stop_with(error, EXIT_UNAVAILABLE)
            except SmartTextGenError as error:
                stop_with(error, EXIT_MODEL)

        def signaled(self, number: int, _frame: object) -> None:
            # In place of Celery's own handlers: its second SIGINT waits inside the handler until every task is done.
            worker.signaled(at_once=number == signal.SIGQUIT)
            if not celery_state.should_stop:
                celery_state.should_stop = 0  # type: ignore[assignment]  # the exit code; its stubs know only the default

        def stop(self, _parent: Any) -> None:
            worker.stop()

    celery.steps["worker"].add(LifecycleStep)
    celery.steps["consumer"].add(GatheredEvents)


def refuse_other_pools(pool: type) -> None:
    """On any other pool heartbeats and aborts would break silently, so: no. Exits with EXIT_CONFIGURATION."""
    if not issubclass(pool, WakingThreadPool):
        print(
            f"A SmartTextGen worker runs on the threads pool (worker.pool:WakingThreadPool), not on {pool.__module__}. "
            "Leave out --pool/-P, or start it with `python -m worker`.",
            file=sys.stderr,
        )
        raise SystemExit(EXIT_CONFIGURATION)


def stop_with(error: SmartTextGenError, code: int) -> None:
    """Say why, and end the worker with this exit code."""
    log.critical("worker cannot start", reason=error.message, code=error.code)
    raise SystemExit(code)
