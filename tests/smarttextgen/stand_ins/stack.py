"""Runs the real launcher over stand-ins: stack.py DATA_DIR READY_FILE WAY_OF_THE_WORKER [WORKERS]."""

import sys
from pathlib import Path

from smarttextgen.launcher import ports
from smarttextgen.launcher.display import JsonLinesDisplay
from smarttextgen.launcher.parts import Patience
from smarttextgen.launcher.programs import Programs
from smarttextgen.launcher.runner import run_stack
from smarttextgen.launcher.stack import StackOptions

HERE = Path(__file__).parent


def stand_in(name: str, *words: str) -> tuple[str, ...]:
    return (sys.executable, "-S", str(HERE / f"{name}.py"), *words)


if __name__ == "__main__":
    ports.PREFERRED_API_PORT = 0  # 8000 may be in use by the person who runs the tests
    data_dir, ready_file, way = sys.argv[1:4]
    programs = Programs(
        stand_in("api"), stand_in("worker", way), stand_in("courier"), stand_in("flower"), stand_in("keys")
    )
    options = StackOptions(
        data_dir=Path(data_dir),
        ready_file=Path(ready_file),
        port=0,
        workers=int(sys.argv[4]) if len(sys.argv) > 4 else 1,
        programs=programs,
        patience=Patience(first_delay_s=0.1, longest_delay_s=0.3),
        start_timeout_s=30,
    )
    sys.exit(run_stack(options, JsonLinesDisplay(sys.stdout)))
