"""The profile puts its timers around private parts of the engine: here is told when one of them has gone."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def test_every_part_has_time(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.profile",
        "--shape",
        "tiny",
        "--requests",
        "2",
        "--folder",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shares = {part: float(share) for part, share in re.findall(r"\| ([^|]+) \| ([\d.]+)% \|", done.stdout)}
    assert sum(shares.values()) > 95
    for part in ("linear layers", "output layer", "attention", "sampling", "scheduling", "keys and values written"):
        assert part in shares, done.stdout
