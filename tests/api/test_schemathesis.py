"""Schemathesis reads the document, sends what it allows and what it forbids, and must find nothing."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, assume, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from tests.api.house import build
from tests.api.live import LiveApi

WARNINGS = "missing_auth,validation_mismatch,missing_deserializer,unused_openapi_auth,method_not_allowed"
"""Not missing_test_data: nobody gets a dead letter through the API."""

# Waits, streams and bodies of 50 MB would only make it slow: they have tests of their own. Limits are set so that they are
# never met.
OPTIONS = {
    "max_batch_size": 100,
    "max_prompt_chars": 400,
    "max_wait_s": 0,
    "stream_max_s": 0.2,
    "default_requests_per_minute": 1_000_000,
    "default_max_queued": 1_000_000,
}


def _schema():
    house = build(**OPTIONS)
    house.announce()
    schema = schemathesis.openapi.from_wsgi("/openapi.json", house.app)
    made = house.call("POST", "/api/admin/keys", json={"tenant": "t", "scopes": ["generate", "admin"]}, key="admin")
    return schema, {"X-API-Key": made.json["key"]}


def _operations():
    schema, headers = _schema()
    for result in schema.get_all_operations():
        operation = result.ok()
        yield pytest.param(operation, headers, id=operation.label)


def _doubled(body: Any) -> bool:
    """Whether a batch names two of its jobs alike: refused, and nothing that a schema could say."""
    requests = body.get("requests") if isinstance(body, dict) else None
    items = [item for item in requests if isinstance(item, dict)] if isinstance(requests, list) else []
    names = [str(item["custom_id"]) for item in items if item.get("custom_id") is not None]
    return len(set(names)) < len(names)


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("operation", "headers"), list(_operations()))
def test_each_operation(operation, headers: dict[str, str], mode: GenerationMode) -> None:
    """Without schemathesis' own pytest plugin: 4.32 does not know pytest 9.2."""

    @settings(max_examples=20, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy(generation_mode=mode))
    def run(case) -> None:
        assume(not _doubled(case.body))
        case.call_and_validate(headers=headers)

    try:
        run()
    except Unsatisfiable:
        pytest.skip("this operation has nothing that could be wrong")


SEED = "20261122"
CONFIG = Path(__file__).resolve().parents[2] / "schemathesis.toml"


def test_the_command_line_finds_nothing(redis_url: str, tmp_path: Path) -> None:
    """As an operator would run it: all checks, all phases, on a running server."""
    program = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("no schemathesis command beside the interpreter")
    env = {name.upper(): str(value) for name, value in OPTIONS.items()}
    with LiveApi(redis_url, f"t{secrets.token_hex(4)}", tmp_path, **env) as live:
        url = f"http://127.0.0.1:{live.port}/openapi.json"
        done = subprocess.run(
            [program, "--config-file", str(CONFIG), "run", url, "-H", f"X-API-Key: {live.key}", "--checks", "all", "--max-examples", "8", "--no-color",
             "--seed", SEED,  # the same cases each time: what a new seed finds is for a person who runs it by hand
             "--warnings", WARNINGS],
            capture_output=True, text=True, cwd=tmp_path, check=False, timeout=240,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:]
    assert "No issues found" in done.stdout
