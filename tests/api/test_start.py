"""What ``python -m api`` refuses before it becomes gunicorn."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

WITHOUT_OTEL = "import sys; sys.modules['opentelemetry'] = None; from api.__main__ import main; main()"


@pytest.mark.parametrize(
    ("arguments", "env", "named"),
    [
        (["-m", "api"], {"API_PORT": "seventy"}, "API_PORT"),
        (["-m", "api"], {"MODES_FILE": "/nowhere/modes.toml"}, "/nowhere/modes.toml"),
        (["-c", WITHOUT_OTEL], {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, "extra otel"),
    ],
    ids=["setting", "modes", "traces"],
)
def test_what_cannot_start_says_why_in_a_sentence(arguments: list[str], env: dict[str, str], named: str) -> None:
    environment = os.environ | {"REDIS_URL": "redis://127.0.0.1:1/0", "ENGINE": "echo"} | env
    ended = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 78
    assert named in ended.stderr
    assert "Traceback" not in ended.stderr
