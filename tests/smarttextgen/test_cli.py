"""The command line: what it prints, on which stream, and how it exits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from smarttextgen.cli import app
from smarttextgen.cli.exits import EXIT_CODES_HELP, ExitCode
from tests.smarttextgen.fake_api import ADMIN_KEY, KEY, Failure, FakeApi, eventually


def run(api: FakeApi, *words: str, key: str = KEY, stdin: str | None = None) -> Result:
    env = {"SMARTTEXTGEN_URL": api.url, "SMARTTEXTGEN_API_KEY": key}
    return CliRunner().invoke(app, list(words), env=env, input=stdin)


def test_submit_prints_the_answer_alone(api: FakeApi) -> None:
    result = run(
        api, "submit", "hello", "--mode", "general", "--max-length", "20", "--temperature", "0", "--top-p", "0.5"
    )
    assert (result.exit_code, result.stdout) == (0, "echo: hello\n")
    assert api.requests("POST", "/api/generate")[0].body == {
        "prompt": "hello",
        "mode": "general",
        "max_length": 20,
        "temperature": 0.0,
        "top_p": 0.5,
    }


@pytest.mark.parametrize("words", [("submit",), ("submit", "-")])
def test_submit_reads_the_prompt_from_stdin(api: FakeApi, words: tuple[str, ...]) -> None:
    assert run(api, *words, stdin="第一行\nsecond\n").stdout == "echo: 第一行\nsecond\n"


def test_no_wait_prints_the_id_and_wait_goes_on(api: FakeApi) -> None:
    assert run(api, "submit", "hello", "--no-wait").stdout == "job_1\n"
    assert run(api, "wait", "job_1").stdout == "echo: hello\n"
    assert "succeeded" in run(api, "get", "job_1").stdout


@pytest.mark.parametrize(
    "words",
    [
        ("submit", "hello"),
        ("submit", "hello", "--no-wait"),
        ("get", "job_1"),
        ("wait", "job_1"),
        ("cancel", "job_1"),
        ("retry", "job_1"),
        ("jobs",),
        ("history", "ann"),
        ("modes",),
        ("models",),
        ("health",),
        ("keys", "list"),
        ("keys", "create", "--tenant", "t", "--name", "n"),
        ("keys", "rotate", "key_1"),
        ("keys", "revoke", "key_1"),
    ],
    ids=" ".join,
)
def test_json_everywhere(api: FakeApi, words: tuple[str, ...]) -> None:
    api.create({"prompt": "earlier"})
    api.keys["key_1"] = {"id": "key_1"}
    result = run(api, *words, "--json", key=ADMIN_KEY)
    assert result.exit_code == 0
    json.loads(result.stdout)


def test_jobs_are_listed(api: FakeApi) -> None:
    assert "No jobs." in run(api, "jobs").stdout
    for number in range(4):
        api.create({"prompt": f"prompt {number}"})
    assert run(api, "jobs", "--limit", "3").stdout.count("queued") == 3


def test_history_is_shown_and_forgotten(api: FakeApi) -> None:
    api.histories["ann"] = [{"input": "hi", "output": "hello"}]
    assert "> hi\nhello\n" in run(api, "history", "ann").stdout
    assert run(api, "history", "ann", "--delete").exit_code == 0
    assert "No conversation." in run(api, "history", "ann").stdout


def test_keys(api: FakeApi) -> None:
    made = run(api, "keys", "create", "--tenant", "t", "--name", "n", "--scopes", "generate, admin", key=ADMIN_KEY)
    assert (made.exit_code, made.stdout) == (0, "sk-new\n")
    limited = run(
        api, "keys", "create", "--tenant", "t", "--name", "n", "--weight", "3", "--tokens-per-day", "9", key=ADMIN_KEY
    )
    assert (limited.exit_code, api.seen[-1].body["weight"], api.seen[-1].body["tokens_per_day"]) == (0, 3, 9)
    run(api, "keys", "create", "--tenant", "t", "--name", "n", "--scopes", "generate, admin", key=ADMIN_KEY)
    assert api.seen[-1].body["scopes"] == ["generate", "admin"]
    assert "key_1" in run(api, "keys", "list", key=ADMIN_KEY).stdout
    assert run(api, "keys", "rotate", "key_1", key=ADMIN_KEY).stdout == "sk-rotated\n"
    assert run(api, "keys", "revoke", "key_1", key=ADMIN_KEY).exit_code == 0


# --- exit codes


@pytest.mark.parametrize(
    ("failure", "code", "sentence"),
    [
        (Failure(401), ExitCode.NO_ACCESS, "Give a valid key"),
        (Failure(403), ExitCode.NO_ACCESS, "another scope"),
        (Failure(404), ExitCode.NOT_THERE, "404"),
        (Failure(409), ExitCode.NOT_THERE, "409"),
        (Failure(422), ExitCode.USAGE, "422"),
        (Failure(429, {"Retry-After": "3600"}), ExitCode.TRY_LATER, "Try again in 3600 s."),
        (Failure(500), ExitCode.TRY_LATER, "500"),
    ],
    ids=lambda value: str(getattr(value, "status", "")),
)
def test_errors_are_sentences_on_stderr(api: FakeApi, failure: Failure, code: ExitCode, sentence: str) -> None:
    api.fail_next(failure)
    result = run(api, "submit", "hello")
    assert result.exit_code == code
    assert sentence in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.output


def test_an_error_names_the_field(api: FakeApi) -> None:
    api.fail_next(
        Failure(422, body={"error": {"message": "At least 10.", "code": "invalid_request", "param": "max_length"}})
    )
    result = run(api, "submit", "hello", "--max-length", "1")
    assert result.exit_code == ExitCode.USAGE
    assert result.stderr == "At least 10 (field max_length).\n"


def test_an_error_as_json(api: FakeApi) -> None:
    result = run(api, "get", "job_9", "--json")
    error = json.loads(result.stderr)["error"]
    assert (error["status"], error["code"], error["exit_code"]) == (404, "not_found", ExitCode.NOT_THERE)


def test_a_failed_job(api: FakeApi) -> None:
    api.end = {"status": "failed", "output": None, "error": {"code": "generation_failed", "message": "Out of luck"}}
    result = run(api, "submit", "hello")
    assert result.exit_code == ExitCode.JOB_FAILED
    assert "generation_failed: Out of luck" in result.output


def test_a_timeout(api: FakeApi) -> None:
    api.polls_to_end = 10**6
    result = run(api, "submit", "hello", "--timeout", "0.2")
    assert result.exit_code == ExitCode.TIMED_OUT
    assert "smarttextgen wait" in result.stderr


def test_wrong_usage(api: FakeApi) -> None:
    assert run(api, "submit", "hello", "--no-such-option").exit_code == ExitCode.USAGE
    assert run(api, "--url", "x").exit_code == ExitCode.USAGE
    assert run(api, "get", "x", "--url", "nonsense").exit_code == ExitCode.USAGE


def test_every_exit_code_is_documented() -> None:
    assert all(str(int(code)) in EXIT_CODES_HELP for code in ExitCode)
    assert "Exit codes" in CliRunner().invoke(app, ["--help"]).stdout


# --- which service


def write_ready_file(url: str) -> None:
    folder = Path(os.environ["SMARTTEXTGEN_DATA_DIR"])
    folder.mkdir(parents=True)
    (folder / "ready.json").write_text(json.dumps({"url": url, "api_key": KEY, "admin_key": ADMIN_KEY}))


def test_the_running_stack_is_found_without_a_key(api: FakeApi) -> None:
    write_ready_file(api.url)
    assert CliRunner().invoke(app, ["submit", "hello"]).stdout == "echo: hello\n"
    assert CliRunner().invoke(app, ["keys", "list"]).exit_code == 0


def test_the_running_stacks_key_is_not_sent_elsewhere(api: FakeApi) -> None:
    write_ready_file("http://127.0.0.1:1")
    assert CliRunner().invoke(app, ["submit", "hello", "--url", api.url]).exit_code == ExitCode.NO_ACCESS
    assert "x-api-key" not in api.seen[0].headers


def test_nothing_runs() -> None:
    result = CliRunner().invoke(app, ["modes", "--url", "http://127.0.0.1:9"])
    assert result.exit_code == ExitCode.NO_ACCESS
    assert "smarttextgen up" in result.stderr


# --- as a process


def test_as_a_subprocess(api: FakeApi) -> None:
    argv = [sys.executable, "-m", "smarttextgen", "submit", "--url", api.url, "--api-key", KEY]
    done = subprocess.run(argv, input="你好\n", capture_output=True, check=False, text=True, encoding="utf-8")
    assert (done.returncode, done.stdout, done.stderr) == (0, "echo: 你好\n", "")


def test_ctrl_c_says_that_the_job_goes_on(api: FakeApi) -> None:
    api.polls_to_end = 10**6
    argv = [sys.executable, "-m", "smarttextgen", "submit", "hello", "--url", api.url, "--api-key", KEY]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert eventually(lambda: bool(api.requests("GET", "/api/jobs/job_1")))
    process.send_signal(2)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == ExitCode.INTERRUPTED
    assert "smarttextgen wait job_1" in errors
