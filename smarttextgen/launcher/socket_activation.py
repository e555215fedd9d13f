"""Run a command with a listening socket as its file descriptor 3, the way systemd does.

    socket_activation.py FD COMMAND [ARGUMENT...]

The launcher binds the API's port itself and hands the socket on, so the port cannot be taken between choosing it and
using it, and while the API restarts its clients wait in the queue of the socket instead of being refused. gunicorn
takes such a socket in place of its own address. LISTEN_PID must name the process that uses it, which is known only
after the fork: hence this step, which becomes the command (exec). Run by path with -I -S: it costs milliseconds.
"""

from __future__ import annotations

import os
import sys

FIRST_FD = 3  # SD_LISTEN_FDS_START


def main() -> None:
    given, command = int(sys.argv[1]), sys.argv[2:]
    if given == FIRST_FD:
        os.set_inheritable(given, True)
    else:
        os.dup2(given, FIRST_FD, inheritable=True)
        os.close(given)
    os.environ["LISTEN_FDS"] = "1"
    os.environ["LISTEN_PID"] = str(os.getpid())
    os.execvp(command[0], command)  # noqa: S606  # nosec B606  # the launcher's own list of arguments, no shell


if __name__ == "__main__":
    main()
