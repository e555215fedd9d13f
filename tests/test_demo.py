"""The end-to-end test: ``make demo`` itself, as a user runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

CHINESE = re.compile(r"[\u4e00-\u9fff]")


@pytest.mark.timeout(420)
def test_make_demo_answers_in_four_modes_and_two_languages_and_leaves_nothing_behind(repository: Path):
    before = {process.pid for process in psutil.process_iter()}
    done = subprocess.run(
        ["make", "--no-print-directory", "demo", f"VENV={Path(sys.prefix)}"],
        cwd=repository, capture_output=True, text=True, timeout=400, env=os.environ | {"COLUMNS": "200"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    for mode in ("general", "recommendation", "support", "ecommerce"):
        assert mode in done.stdout
    assert len(CHINESE.findall(done.stdout)) > 60
    left = [
        process
        for process in psutil.process_iter(["pid", "cmdline"])
        if process.pid not in before and any("smarttextgen-demo" in part for part in process.info["cmdline"] or [])
    ]
    assert left == []
