"""Log lines of real processes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

FAILS = """
import logging
from shared.logs import configure_logging
from shared.settings import load_settings
configure_logging(load_settings(log_format={format!r}), "test")
def fail(prompt):
    secret = {{"url": "redis://:hunter2@example"}}
    raise ValueError("no")
try:
    fail("a prompt of " + "hers")
except ValueError:
    logging.getLogger("library").exception("it failed")
"""


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_traceback_tells_no_values(log_format: str) -> None:
    script = FAILS.format(format=log_format)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "it failed" in done.stderr
    assert "ValueError" in done.stderr
    assert "prompt of hers" not in done.stderr
    assert "hunter2" not in done.stderr.replace(script, "")
    if log_format == "json":
        assert json.loads(done.stderr)["process"] == "test"
