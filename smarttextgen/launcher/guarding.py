"""The launcher's side of the guard (see guard.py for why there is one)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

GUARD_GRACE_S = 5.0


class Guard:
    """Keeps a guard process running and tells it which process groups are ours."""

    def __init__(
        self, remove: Sequence[Path] = (), keep_open: Sequence[int] = (), grace_s: float = GUARD_GRACE_S
    ) -> None:
        """``remove`` are files it deletes, and ``keep_open`` descriptors it holds, until all parts have ended."""
        self._argv = [sys.executable, "-I", "-S", str(Path(__file__).with_name("guard.py")), str(grace_s)]
        self._argv += [str(path) for path in remove]
        self._keep_open = tuple(keep_open)
        self._groups: dict[int, int] = {}
        self._process = self._start()

    def watch(self, pgid: int, rank: int) -> None:
        """From now on end this group if the launcher dies; groups of a lower rank end first."""
        self._groups[pgid] = rank
        self._tell(f"+{pgid} {rank}\n")

    def forget(self, pgid: int) -> None:
        """The group has ended."""
        if self._groups.pop(pgid, None) is not None:
            self._tell(f"-{pgid}\n")

    def close(self) -> None:
        """All parts have ended; the guard goes."""
        try:
            self._process.communicate("bye\n", timeout=5)
        except (OSError, ValueError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd="/",
            start_new_session=True,  # a Ctrl-C or a closing terminal is the launcher's business
            pass_fds=self._keep_open,
        )

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except OSError:  # somebody killed the guard: a new one, told everything
            self._process.kill()
            self._process.wait()
            self._process = self._start()
            assert self._process.stdin is not None
            self._process.stdin.write("".join(f"+{pgid} {rank}\n" for pgid, rank in self._groups.items()))
            self._process.stdin.flush()
