"""Runs a stack from the first process to the last: starts it, watches it, announces it, ends it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from smarttextgen.launcher import lock
from smarttextgen.launcher.data_dir import DataDir
from smarttextgen.launcher.display import Display
from smarttextgen.launcher.errors import LauncherError
from smarttextgen.launcher.guarding import Guard
from smarttextgen.launcher.info import StackInfo, pids_by_kind
from smarttextgen.launcher.interrupts import Interrupts
from smarttextgen.launcher.key_bootstrap import KeyBootstrap, StackKeys
from smarttextgen.launcher.parts import Event, Kind
from smarttextgen.launcher.process import Part
from smarttextgen.launcher.stack import FLOWER_USER, Stack, StackOptions
from smarttextgen.launcher.supervisor import Supervisor

STEP_S = 0.1
WATCH_S = 1.0
"""Between two looks at parts that are all ready: the end of one wakes us."""
WORK_ENDS_S = 2.0
Work = Callable[[StackInfo, Callable[[], bool]], int]  # (the stack, whether to stop early) -> exit code


def run_stack(options: StackOptions, display: Display, work: Work | None = None) -> int:
    """Bring a stack up and keep it up until a signal, or until ``work`` (run in a thread once it is ready) returns.

    Returns the exit code: ``work``'s, else 0 after an orderly end, 1 when the stack could not be kept up.
    Every process that was started has ended when this returns.
    """
    data_dir = DataDir(options.data_dir.expanduser().resolve())
    try:
        data_dir.create()
        with lock.take(data_dir) as locked, Interrupts() as interrupts:
            return _Run(options, data_dir, display, interrupts, locked.fileno()).run(work)
    except (LauncherError, OSError) as error:
        display.failed(error)
        return 1


class _Run:
    """One run of a stack; wires its parts together and holds what changes while it runs."""

    def __init__(
        self, options: StackOptions, data_dir: DataDir, display: Display, interrupts: Interrupts, locked: int
    ) -> None:
        self._display = display
        self._interrupts = interrupts
        self._stack = Stack(options, data_dir)
        self._ready_files = [path for path in (data_dir.ready_file, options.ready_file) if path is not None]
        self._data_dir = data_dir
        _remove(self._ready_files)  # left by a stack that was killed
        self._guard = Guard(remove=[path.resolve() for path in self._ready_files], keep_open=[locked])
        parts = [Part(spec, data_dir.logs, self._guard) for spec in self._stack.specs()]
        self._supervisor = Supervisor(parts, self._heard, options.patience)
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="launcher")
        self._ending = threading.Event()
        self._keys: Future[StackKeys] | None = None
        self._work: Future[int] | None = None
        self._announced_pids: dict[str, list[int]] | None = None
        self._program = options.programs.keys

    def run(self, work: Work | None) -> int:
        try:
            with self._display.starting(self._supervisor.parts):
                self._until_ready()
            return self._until_stopped(work)
        except LauncherError as error:
            self._display.failed(error)
            return 1
        finally:
            self._end()

    def _until_ready(self) -> None:
        while not self._stopping():
            self._supervisor.step()
            if self._keys is None and self._supervisor.is_ready(Kind.REDIS):
                self._keys = self._threads.submit(self._key_bootstrap().ensure)
            if self._keys is not None and self._keys.done():
                self._keys.result()  # a failure ends the start at once
                if self._supervisor.all_ready:
                    return
            self._interrupts.pause(STEP_S)

    def _until_stopped(self, work: Work | None) -> int:
        while not self._stopping():
            self._supervisor.step()
            if self._supervisor.all_ready:
                self._announce()
                if work is not None and self._work is None:
                    self._work = self._threads.submit(work, self._info(), self._stopping)
                    self._work.add_done_callback(lambda _: self._interrupts.wake())
            if self._work is not None and self._work.done():
                return self._work.result()
            self._interrupts.pause(WATCH_S if self._supervisor.all_ready else STEP_S)
        return 0 if work is None else 130

    def _announce(self) -> None:
        """Write the ready files when the stack is ready, and again whenever a part has another pid."""
        info = self._info()
        if info.pids == self._announced_pids:
            return
        info.write(self._ready_files)
        if self._announced_pids is None:
            self._display.ready(info)
        self._announced_pids = info.pids

    def _info(self) -> StackInfo:
        assert self._keys is not None
        keys = self._keys.result()
        return StackInfo(
            url=self._stack.url,
            api_key=keys.api_key,
            admin_key=keys.admin_key,
            redis_url=self._stack.redis_url,
            flower_url=self._stack.flower_url,
            flower_user=FLOWER_USER,
            flower_password=self._stack.flower_password,
            data_dir=str(self._data_dir.root),
            pids=pids_by_kind(self._supervisor.parts),
        )

    def _key_bootstrap(self) -> KeyBootstrap:
        return KeyBootstrap(
            keys_file=self._data_dir.keys_file,
            program=self._program,
            env=self._stack.environment(),
            api_url=self._stack.url,
            probes=self._stack.probes,
            api_is_ready=lambda: self._supervisor.is_ready(Kind.API),
            stopping=self._stopping,
        )

    def _end(self) -> None:
        self._ending.set()
        if self._work is not None:
            wait([self._work], timeout=WORK_ENDS_S)  # it has seen _stopping(), and clears its display
        self._display.stopping()
        _remove(self._ready_files)
        self._stack.close_port()
        self._supervisor.stop(self._interrupts.kill_requested)
        self._guard.close()
        self._stack.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._display.stopped()

    def _heard(self, event: Event) -> None:
        self._display.event(event)

    def _stopping(self) -> bool:
        return self._ending.is_set() or self._interrupts.stop_requested()


def _remove(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
