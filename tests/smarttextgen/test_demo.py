"""The demo's tour against a fake API: what it asks, what it prints, when it says that something is wrong."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from smarttextgen.launcher.demo import PROMPTS, Demo
from smarttextgen.launcher.info import StackInfo
from tests.smarttextgen.fake_api import KEY, FakeApi


@pytest.fixture
def info(api: FakeApi) -> StackInfo:
    return StackInfo(api.url, KEY, "", "", "", "", "", "", {})


def tour(info: StackInfo, *, terminal: bool = False) -> tuple[int, str]:
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=120)
    return Demo(console).run(info, lambda: False), output.getvalue()


@pytest.mark.parametrize("terminal", [False, True], ids=["plain_lines", "live_table"])
def test_a_good_tour(api: FakeApi, info: StackInfo, terminal: bool) -> None:
    code, output = tour(info, terminal=terminal)
    assert code == 0
    assert all(f"echo: {prompt}" in output for _, prompt in PROMPTS)
    assert "from the cache" in output
    assert "All 11 jobs succeeded." in output
    bodies = [each.body for each in api.requests("POST", "/api/generate")]
    assert {(body["mode"], body["prompt"]) for body in bodies} >= set(PROMPTS)
    assert all(body["temperature"] == 0.0 for body in bodies)
    assert [body["prompt"] for body in bodies].count(PROMPTS[0][1]) == 2


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ({"status": "failed", "error": {"code": "x", "message": "Out of luck"}}, "failed Out of luck"),
        ({"status": "expired"}, "expired"),
        ({"status": "succeeded", "output": " "}, "its answer is empty"),
        ({"status": "succeeded", "cached": False}, "was not served from the cache"),
    ],
    ids=["failed", "expired", "empty_answer", "not_cached"],
)
def test_a_bad_tour(api: FakeApi, info: StackInfo, end: dict[str, object], said: str) -> None:
    api.end = end
    code, output = tour(info)
    assert code == 1
    assert said in output
    assert "succeeded." not in output


def test_a_service_that_refuses(info: StackInfo, api: FakeApi) -> None:
    refused = StackInfo(**{**info.as_json(), "api_key": "sk-wrong"})
    code, output = tour(refused)
    assert code == 1
    assert "A valid API key is required." in output


def test_ctrl_c_ends_the_tour(api: FakeApi, info: StackInfo) -> None:
    api.polls_to_end = 10**6
    assert Demo(Console(file=io.StringIO())).run(info, lambda: True) == 130


def test_the_outcome_as_json(api: FakeApi, info: StackInfo, capsys: pytest.CaptureFixture[str]) -> None:
    assert Demo(Console(file=io.StringIO()), as_json=True).run(info, lambda: False) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["ok"]
    assert len(outcome["jobs"]) == 11
    assert len(outcome["history"]) == 2
