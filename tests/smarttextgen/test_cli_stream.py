"""`smarttextgen submit --stream`: what a terminal and a pipe get to see."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys

import pytest
from typer.testing import CliRunner, Result

from smarttextgen.cli import app
from smarttextgen.cli.exits import ExitCode
from smarttextgen.cli.live import Typewriter
from tests.smarttextgen.fake_api import KEY, Failure, FakeApi
from tests.smarttextgen.fake_streams import Cut


def run(api: FakeApi, *words: str) -> Result:
    return CliRunner().invoke(app, list(words), env={"SMARTTEXTGEN_URL": api.url, "SMARTTEXTGEN_API_KEY": KEY})


def a_log(api: FakeApi, *deltas: str, end: str = "succeeded", **job: object) -> None:
    log = api.streams.log("job_1")
    log.add("queued", queue_position=1)
    log.add("started", attempt=1)
    for delta in deltas:
        log.add("restarted", attempt=2) if delta == "RESTART" else log.add("output", index=0, delta=delta)
    log.add(end, **{"id": "job_1", "status": end, "output": "".join(deltas), **job})


def test_the_answer_alone(api: FakeApi) -> None:
    a_log(api, "我的", "包裹 ", "🧦")
    api.streams.cuts = [Cut(300)]
    result = run(api, "submit", "hello", "--stream")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "我的包裹 🧦\n", "")


def test_wait_streams_too(api: FakeApi) -> None:
    a_log(api, "ab", "c")
    assert run(api, "wait", "job_1", "--stream").stdout == "abc\n"


def test_a_restart_in_a_pipe_with_the_same_text_is_printed_once(api: FakeApi) -> None:
    a_log(api, "one ", "two ", "RESTART", "one", " two", " three", output="one two three")
    result = run(api, "submit", "hello", "--stream")
    assert result.stdout == "one two three\n"
    assert "attempt 2 starts over" in result.stderr


def test_a_restart_with_another_text_says_so(api: FakeApi) -> None:
    a_log(api, "one ", "two ", "RESTART", "one", " dog", output="one dog")
    result = run(api, "submit", "hello", "--stream")
    assert result.stdout == "one two \none dog\n"
    assert "from its beginning" in result.stderr


def test_typewriter_shorter_text_after_a_restart() -> None:
    written: list[str] = []
    said: list[str] = []
    paper = Typewriter(written.append, said.append)
    paper.add("one two")
    paper.restart()
    paper.add("one")
    paper.finish("one")
    assert ("".join(written), len(said)) == ("one two\none\n", 1)


@pytest.mark.parametrize(("text", "paper"), [(None, ""), ("", "\n"), ("all at once", "all at once\n")])
def test_typewriter_without_deltas(text: str | None, paper: str) -> None:
    written: list[str] = []
    Typewriter(written.append, written.append).finish(text)
    assert "".join(written) == paper


def test_several_answers(api: FakeApi) -> None:
    log = api.streams.log("job_1")
    for index, delta in enumerate(("a", "A", "b", "B")):
        log.add("output", index=index % 2, delta=delta)
    choices = [{"index": 0, "text": "ab"}, {"index": 1, "text": "AB"}]
    log.add("succeeded", id="job_1", status="succeeded", output="ab", choices=choices)
    log = api.streams.logs["job_1"]
    assert run(api, "submit", "hello", "--n", "2", "--stream").stdout.replace("\n", "|") == "ab|[1] AB|"


def test_a_failed_job(api: FakeApi) -> None:
    a_log(api, "some", end="failed", output=None, error={"code": "generation_failed", "message": "Out of luck"})
    result = run(api, "submit", "hello", "--stream")
    assert result.exit_code == ExitCode.JOB_FAILED
    assert result.stdout.startswith("some\nfailed  job_1")
    assert "Out of luck" in result.stdout


def test_events_as_json_lines(api: FakeApi) -> None:
    a_log(api, "a", "RESTART", "b", output="b")
    events = [json.loads(line) for line in run(api, "submit", "hello", "--stream", "--json").stdout.splitlines()]
    assert [event["event"] for event in events] == ["queued", "started", "output", "restarted", "output", "succeeded"]
    assert [event["id"] for event in events] == [1, 2, 3, 4, 5, 6]
    assert events[2]["delta"] == "a"
    assert events[-1]["job"]["output"] == "b"


@pytest.mark.parametrize("failure", [Failure(410), Failure(429, {"x-should-retry": "false"})], ids=["gone", "limit"])
def test_without_a_stream_the_answer_is_waited_for(api: FakeApi, failure: Failure) -> None:
    job_id = run(api, "submit", "hello", "--no-wait").stdout.strip()
    api.fail_next(failure)
    result = run(api, "wait", job_id, "--stream")
    assert (result.exit_code, result.stdout) == (0, "echo: hello\n")
    assert "No stream" in result.stderr


def test_a_timeout(api: FakeApi) -> None:
    api.streams.log("job_1").add("queued")
    result = run(api, "submit", "hello", "--stream", "--timeout", "0.2")
    assert result.exit_code == ExitCode.TIMED_OUT


def test_stream_needs_a_wait(api: FakeApi) -> None:
    assert run(api, "submit", "hello", "--stream", "--no-wait").exit_code == ExitCode.USAGE
    assert not api.seen


def start(api: FakeApi, stdout: int, stderr: int) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "smarttextgen", "submit", "hello", "--stream", "--url", api.url, "--api-key", KEY]
    return subprocess.Popen(argv, stdout=stdout, stderr=stderr, text=True)


def test_words_come_as_they_are_written_and_ctrl_c_says_how_to_go_on(api: FakeApi) -> None:
    log = api.streams.log("job_1")
    log.add("queued")
    log.add("output", index=0, delta="first words")
    process = start(api, subprocess.PIPE, subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.read(len("first words")) == "first words"  # the job goes on meanwhile
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == ExitCode.INTERRUPTED
    assert "smarttextgen wait job_1" in errors
    assert "smarttextgen cancel job_1" in errors
    assert not api.requests("POST", "/api/jobs/job_1/cancel")


def test_on_a_terminal(api: FakeApi) -> None:
    log = api.streams.log("job_1")
    log.add("queued", queue_position=7)
    ours, theirs = pty.openpty()
    process = start(api, theirs, theirs)
    os.close(theirs)
    seen = b""
    while b"position 7" not in seen:
        seen += os.read(ours, 1000)
    log.add("output", index=0, delta="the ans")
    log.add("restarted", attempt=2)
    log.add("output", index=0, delta="the answer")
    while b"the answer" not in seen:
        seen += os.read(ours, 1000)
    log.add("succeeded", id="job_1", status="succeeded", output="the answer")
    assert process.wait(10) == 0
    os.close(ours)
    lines = seen.decode().replace("\r", "").splitlines()
    assert lines[-3].endswith("the ans")
    assert "attempt 2 starts over" in lines[-2]
    assert lines[-1] == "the answer"


HOSTILE = "a\x1b]0;owned\x07b\x1b[2Jc\x9bd\re\tf\ng"


def test_an_answer_tells_a_terminal_nothing(api: FakeApi) -> None:
    a_log(api, HOSTILE[:3], HOSTILE[3:])
    ours, theirs = pty.openpty()
    process = start(api, theirs, subprocess.DEVNULL)
    os.close(theirs)
    seen = b""
    while b"\ng" not in seen:
        seen += os.read(ours, 1000)
    assert process.wait(10) == 0
    os.close(ours)
    assert seen.decode().replace("\r\n", "\n").startswith("a\\x1b]0;owned\\x07b\\x1b[2Jc\\x9bd\\x0de\tf\ng")
