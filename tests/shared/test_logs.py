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


HOSTILE = """
import logging
import structlog
from shared.logs import configure_logging
from shared.settings import load_settings
configure_logging(load_settings(log_format={format!r}), "test")
hostile = "a\\n2026-01-01 [info] forged \\x1b[2J\\x9b2J\\x07\\r\\u2028\\u202e\\udc80z"
structlog.get_logger("ours").info("of ours", prompt=hostile)
structlog.get_logger("ours").info("short", prompt="\\x1b[31m\\x9b0m")
logging.getLogger("library").warning("took %s", hostile)
try:
    raise ValueError(hostile)
except ValueError:
    structlog.get_logger("ours").exception("it failed")
"""


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_what_a_client_sent_forges_no_line_and_reaches_no_terminal(log_format: str) -> None:
    done = subprocess.run([sys.executable, "-c", HOSTILE.format(format=log_format)], capture_output=True, check=True)
    told = done.stderr.decode()
    assert not set(told) & set("\x1b\x9b\x07\r\u2028\u202e")
    assert "Logging error" not in told
    assert not [line for line in told.split("\n") if line.startswith("2026-01-01")]
    if log_format == "json":
        lines = [json.loads(line) for line in told.splitlines()]
        assert [line["event"][:8] for line in lines] == ["of ours", "short", "took a\n2", "it faile"]
        assert lines[0]["prompt"].endswith("\x1b[2J\x9b2J\x07\r\u2028\u202e\udc80z"), "it is still what was sent"
