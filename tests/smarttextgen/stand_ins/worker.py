"""Stands in for `python -m worker`: ready after a moment, leaves on SIGTERM, and has a child that does not.

The first argument is how it fails:
    healthy            not at all
    crashes_at_start   every time, with a reason in its log
    crashes_once       at its first start only
    model_cannot_load  with the exit code that says so
    crashes_when_ready shortly after it was ready, every time
    ignores_sigterm    never leaves by itself
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(os.environ["STAND_IN_FOLDER"])
NAME = os.environ["WORKER_NAME"]


def leave(number: int, frame: object) -> None:
    (FOLDER / f"{NAME}.ready").unlink(missing_ok=True)
    with (FOLDER / "order").open("a") as file:
        file.write("worker\n")
    sys.exit(0)


def main(way: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN if way == "ignores_sigterm" else leave)
    crashed_before = FOLDER / f"{NAME}.crashed"
    if way == "crashes_at_start" or (way == "crashes_once" and not crashed_before.exists()):
        crashed_before.touch()
        print("ModelLoadError: /nowhere/model is not a model", flush=True)
        sys.exit(3)
    if way == "model_cannot_load":
        print("ModelLoadError: /nowhere/model is not a model", flush=True)
        sys.exit(os.EX_UNAVAILABLE)
    child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, 1); time.sleep(600)"])
    (FOLDER / f"{NAME}.child").write_text(str(child.pid))
    (FOLDER / f"{NAME}.ready").touch()
    print("stand-in worker is ready", flush=True)
    if way == "crashes_when_ready":
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGSEGV)
    while True:
        time.sleep(0.05)


if __name__ == "__main__":
    main(sys.argv[1])
