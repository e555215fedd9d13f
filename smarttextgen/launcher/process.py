"""One running part: its process, its log, its crashes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections import deque
from concurrent.futures import Future
from pathlib import Path

from smarttextgen.launcher.guarding import Guard
from smarttextgen.launcher.parts import STOP_RANK, PartSpec, PartState

LAST_LINES = 20
LOG_ROTATE_BYTES = 10 * 1024 * 1024


class Part:
    """A part of the stack while it runs. Only the supervisor changes it, from one thread."""

    def __init__(self, spec: PartSpec, log_folder: Path, guard: Guard) -> None:
        self.spec = spec
        self.state = PartState.WAITING
        self.log_path = log_folder / f"{spec.name}.log"
        self.ever_ready = False
        self.crashes: deque[float] = deque(maxlen=64)  # times, monotonic seconds
        self.start_at = 0.0  # not before
        self.started_at = 0.0
        self.ready_after_s = 0.0
        self.probe: Future[bool] | None = None
        self._guard = guard
        self._process: subprocess.Popen[bytes] | None = None
        self._log_offset = 0
        log_folder.mkdir(parents=True, exist_ok=True)
        self.rotate_log()

    @property
    def pid(self) -> int | None:
        """The pid while it runs."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start the process in a session of its own, its output appended to its log.

        Raises: OSError when the program cannot be run.
        """
        command = self.spec.command()
        with self.log_path.open("ab") as log:
            self._log_offset = log.tell()
            self._process = subprocess.Popen(
                command.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **command.env},
                pass_fds=command.pass_fds,
                cwd=command.cwd,
                start_new_session=True,  # so a Ctrl-C reaches the launcher alone, and the whole group can be ended
            )
        self._guard.watch(self._process.pid, STOP_RANK[self.spec.kind])
        self.probe = None
        self.started_at = time.monotonic()
        self.state = PartState.STARTING

    def exit_code(self) -> int | None:
        """None while it runs or has been seen to end; else how it ended, its group's last processes swept up.

        As subprocess has it: a negative code is the signal that killed it.
        """
        code = self._process.poll() if self._process is not None else None
        if code is not None:
            self._sweep()
        return code

    def terminate(self) -> None:
        """Ask it to end. Only the leader is asked: gunicorn's master ends its own workers."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
        self.state = PartState.STOPPING

    def kill(self) -> None:
        """End the whole group at once."""
        if self._process is not None:
            _kill_group(self._process.pid)
            self._process.wait()
            self._sweep()

    def last_lines(self, count: int = LAST_LINES) -> tuple[str, ...]:
        """The end of what it wrote since its latest start."""
        try:
            with self.log_path.open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(self._log_offset, size - 64 * 1024))
                text = log.read().decode("utf-8", "replace")
        except OSError:
            return ()
        return tuple(line.rstrip() for line in text.splitlines() if line.strip())[-count:]

    def rotate_log(self) -> None:
        """Put what a log has grown to aside, as ``NAME.log.1``, and go on in the same file, which the part has open.

        What is written between the copy and the cut is lost; the part appends, so nothing else is.
        """
        if self.log_path.exists() and self.log_path.stat().st_size > LOG_ROTATE_BYTES:
            shutil.copyfile(self.log_path, self.log_path.with_suffix(".log.1"))
            os.truncate(self.log_path, 0)
            self._log_offset = 0

    def _sweep(self) -> None:
        """The leader is gone: end what is left of its group, and forget it."""
        assert self._process is not None
        _kill_group(self._process.pid)
        self._guard.forget(self._process.pid)
        self._process = None


def _kill_group(pgid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS answers EPERM for a group of zombies
        os.killpg(pgid, signal.SIGKILL)
