"""The guard: a process of its own that ends the parts when the launcher dies without having done so (kill -9, OOM).

The launcher holds the only write end of this process's standard input. When the launcher dies, however it dies, the
kernel closes that end, and the guard stops every process group it was told of, in the launcher's own order. That
covers what PR_SET_PDEATHSIG does not: grandchildren (gunicorn's workers), an orderly end (Redis last, with its save),
and macOS. It is run by path, with -I -S, so that it starts in milliseconds and imports nothing of this package.

    guard.py GRACE_S [FILE...]     files to remove after such an end (the ready files)

Lines on stdin: ``+PGID RANK`` a group started, ``-PGID`` it ended, ``bye`` the launcher ended everything itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time


def alive(pgid: int) -> bool:
    """Whether any process of the group is left."""
    try:
        os.killpg(pgid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def send(pgid: int, signal_number: int) -> None:
    """Signal a group; one that is gone already is no error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pgid, signal_number)


def end(groups: dict[int, int], grace_s: float) -> None:
    """End ``groups`` ({pgid: rank}), lowest rank first: SIGTERM, then after ``grace_s`` seconds SIGKILL."""
    for rank in sorted(set(groups.values())):
        left = [pgid for pgid, its_rank in groups.items() if its_rank == rank]
        for pgid in left:
            send(pgid, signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while left and time.monotonic() < deadline:
            time.sleep(0.05)
            left = [pgid for pgid in left if alive(pgid)]
        for pgid in left:
            send(pgid, signal.SIGKILL)


def listen() -> dict[int, int] | None:
    """Follow the launcher's lines. Returns the groups left when it died, or None when it said goodbye."""
    groups: dict[int, int] = {}
    for line in sys.stdin:
        if not line.endswith("\n"):
            break  # the launcher died within a line
        if line == "bye\n":
            return None
        if line.startswith("+"):
            pgid, rank = line[1:].split()
            groups[int(pgid)] = int(rank)
        elif line.startswith("-"):
            groups.pop(int(line[1:]), None)
    return groups


def main() -> None:
    for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signal_number, signal.SIG_IGN)  # only the launcher's end ends the guard
    groups = listen()
    if groups is None:
        return
    end(groups, float(sys.argv[1]))
    for path in sys.argv[2:]:
        with contextlib.suppress(OSError):
            os.unlink(path)  # noqa: PTH108  pathlib takes longer to import than the guard to start


if __name__ == "__main__":
    main()
