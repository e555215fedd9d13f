"""Stands in for `python -m worker.courier`: there until SIGTERM."""

import os
import signal
import sys
import time
from pathlib import Path

FOLDER = Path(os.environ["STAND_IN_FOLDER"])


def leave(number: int, frame: object) -> None:
    (FOLDER / "courier").unlink(missing_ok=True)
    sys.exit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, leave)
    assert os.environ["REDIS_URL"]
    (FOLDER / "allowlist").write_text(os.environ.get("WEBHOOK_ALLOWLIST", ""))
    (FOLDER / "courier").write_text(str(os.getpid()))
    while True:
        time.sleep(0.05)
