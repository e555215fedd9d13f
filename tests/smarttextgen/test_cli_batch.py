"""`smarttextgen batch`: what it takes, what it writes, and that it can be killed at any moment."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from smarttextgen import batches
from smarttextgen.cli import app, batch_input, results_file
from smarttextgen.cli.batch_input import parts, read_items
from smarttextgen.cli.exits import ExitCode
from tests.smarttextgen.fake_api import KEY, Failure, FakeApi, eventually


@pytest.fixture(autouse=True)
def short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(batches, "LONGEST_PAUSE_S", 0.01)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """25 lines of every kind; the jobs of two fail."""
    lines: list[object] = [
        f"prompt {number}" if number % 3 else {"custom_id": f"c{number}", "prompt": f"我的 {number}"}
        for number in range(25)
    ]
    lines[7] = {"prompt": "fail", "max_length": 20, "seed": None}
    lines[8] = "fail too\u2028on one line"
    return written(tmp_path / "prompts.jsonl", lines)


def written(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return path


def run(api: FakeApi, *words: object, stdin: bytes | None = None) -> Result:
    env = {"SMARTTEXTGEN_URL": api.url, "SMARTTEXTGEN_API_KEY": KEY}
    return CliRunner().invoke(app, ["batch", *map(str, words)], env=env, input=stdin)


def results(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def assert_whole(path: Path, count: int = 25) -> None:
    assert sorted(each["index"] for each in results(path)) == list(range(count))
    assert path.read_bytes().endswith(b"\n")


def submits(api: FakeApi) -> list[dict[str, Any]]:
    return [each.body for each in api.requests("POST", "/api/generate_batch")]


# --- what it does


def test_results_are_written_as_they_come(api: FakeApi, prompts: Path, tmp_path: Path) -> None:
    api.batches.ends_per_look = 4
    out = tmp_path / "results.jsonl"
    done = run(api, prompts, "--out", out, "--mode", "support", "--max-length", 30)
    assert done.exit_code == ExitCode.JOB_FAILED
    assert done.stderr == "25 results: 2 failed, 23 succeeded\n"
    assert_whole(out)
    by_index = {each["index"]: each for each in results(out)}
    assert by_index[3]["custom_id"] == "c3"
    assert by_index[3]["output"] == "echo: 我的 3"
    assert by_index[7]["error"]["code"] == "generation_failed"
    (body,) = submits(api)
    assert (body["mode"], body["max_length"]) == ("support", 30)
    assert body["requests"][7] == {"prompt": "fail", "max_length": 20}
    assert body["requests"][8] == {"prompt": "fail too\u2028on one line"}


def test_the_outcome_as_json(api: FakeApi, tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"
    done = run(api, written(tmp_path / "in", ["a", "b"]), "--out", out, "--json")
    assert done.exit_code == ExitCode.OK
    expected = {"out": str(out), "batches": ["batch_1"], "counts": {"total": 2, "succeeded": 2}}
    assert json.loads(done.stdout) == expected


def test_plain_lines(api: FakeApi, tmp_path: Path) -> None:
    source = tmp_path / "prompts.txt"
    source.write_bytes('\ufeffone\r\n\n  \n"two" {}\n三\u2028四'.encode())
    assert run(api, source, "--text", "--out", tmp_path / "out").exit_code == ExitCode.OK
    assert submits(api) == [{"prompts": ["one", '"two" {}', "三\u2028四"]}]


def test_pipes(api: FakeApi) -> None:
    """stdin to stdout; the same prompts again are the same batch."""
    first = run(api, "-", stdin=b'"a"\n{"prompt": "b"}\n')
    assert first.exit_code == ExitCode.OK
    assert sorted(json.loads(line)["output"] for line in first.stdout.splitlines()) == ["echo: a", "echo: b"]
    assert run(api, "-", stdin=b'"a"\n{"prompt": "b"}\n').stdout == first.stdout
    run(api, "-", "--seed", 1, stdin=b'"a"\n{"prompt": "b"}\n')
    assert len(api.batches.all) == 2
    assert run(api, "-", "--json", stdin=b'"a"').exit_code == ExitCode.USAGE


def test_many_lines_make_several_batches(api: FakeApi, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"
    run(api, prompts, "--out", out, "--batch-size", 10)
    assert [len(each.requests) for each in api.batches.all.values()] == [10, 10, 5]
    assert_whole(out)
    lines = [json.loads(line) for line in prompts.read_text().split("\n")[:-1]]
    for each in results(out):
        line = lines[each["index"]]
        assert each["custom_id"] == (line.get("custom_id") if isinstance(line, dict) else None)


def test_parts_of_10_000_lines_and_of_what_a_request_may_weigh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_input, "MOST_BYTES", 1_500_000)
    items = read_items(b'"a"\n' * 25_000, "x", as_text=False)
    assert [len(part) for part in parts(items)] == [10_000, 10_000, 5_000]
    items = read_items(("字" * 8000 + "\n").encode() * 100, "x", as_text=True)
    assert [len(part) for part in parts(items)] == [62, 38]
    huge = read_items(b"x" * (batch_input.MOST_BYTES + 1) + b"\ny\n", "x", as_text=True)
    assert [len(part) for part in parts(huge)] == [1, 1]


# --- lines that are no prompts


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"plain text", "it is not JSON"),
        (b'{"prompt": "a"', "it is not JSON"),
        (b'{"prompt": NaN}', "it is not JSON: NaN is no number"),
        (b'{"prompt": "\xff"}', "it is not UTF-8"),
        (b'"\\ud800"', "it is not UTF-8"),
        (b'{"prompt": "a", "metadata": {"k": "\\udfff"}}', "it is not UTF-8"),
        (b"7", "it is neither an object nor a string"),
        (b"null", "it is neither an object nor a string"),
        (b'["a"]', "it is neither an object nor a string"),
        (b'""', "its prompt is empty"),
        (b'{"prompt": ""}', "its prompt is empty"),
        (b"{}", "it has no prompt"),
        (b'{"prompt": null}', "it has no prompt"),
        (b'{"prompt": ["a"]}', "its prompt is a list of something else"),
        (b'{"prompt": [1, true]}', "its prompt is a list of something else"),
        (b'{"prompt": []}', "its prompt is empty"),
        (b'{"prompt": {"a": 1}}', "prompt is an object"),
        (b'{"prompt": "a", "custom_id": 7}', "custom_id is a whole number, it should be a string"),
        (b'{"prompt": "a", "max_length": "20"}', "max_length is a string, it should be a whole number"),
        (b'{"prompt": "a", "max_length": 20.5}', "max_length is a number, it should be a whole number"),
        (b'{"prompt": "a", "n": true}', "n is true or false, it should be a whole number"),
        (b'{"prompt": "a", "cache": 1}', "cache is a whole number"),
        (b'{"prompt": "a", "promtp": 1}', "'promtp' is no field"),
        (b'{"prompt": "a", "custom_id": "same"}', "its custom_id is that of line 1"),
        (b"[" * 100_000, "it is nested too deeply"),
    ],
)
def test_a_bad_line_is_named_before_anything_is_sent(api: FakeApi, tmp_path: Path, line: bytes, reason: str) -> None:
    source = tmp_path / "prompts.jsonl"
    source.write_bytes(b'{"prompt": "good", "custom_id": "same"}\n\n' + line + b'\n"good"\n')
    done = run(api, source, "--out", tmp_path / "out")
    assert done.exit_code == ExitCode.USAGE
    assert f"line 3: {reason}" in done.stderr
    assert "nothing was sent" in done.stderr
    assert not api.seen
    assert not (tmp_path / "out").exists()


def test_good_lines_of_every_field(api: FakeApi, tmp_path: Path) -> None:
    request = {
        "prompt": "a", "temperature": 1, "top_p": 0.5, "stop": ["x"], "cache": False, "metadata": {"a": "b"},
        "priority": "low", "webhook": "https://example.org", "max_length": 20,
    }  # fmt: skip
    run(api, written(tmp_path / "in", [request]), "--out", tmp_path / "out")
    assert submits(api)[0]["requests"] == [request]


def test_many_bad_lines_are_counted(api: FakeApi, tmp_path: Path) -> None:
    done = run(api, written(tmp_path / "in", [7] * 30), "--out", tmp_path / "out")
    assert "30 bad lines" in done.stderr
    assert "and 10 more" in done.stderr


def test_no_prompts_and_no_file(api: FakeApi, tmp_path: Path) -> None:
    assert run(api, written(tmp_path / "in", []), "--out", tmp_path / "out").exit_code == ExitCode.USAGE
    assert run(api, tmp_path / "missing").exit_code == ExitCode.USAGE
    assert run(api, tmp_path).exit_code == ExitCode.USAGE
    assert run(api, written(tmp_path / "in", ["a"]), "--out", tmp_path / "no" / "out").exit_code == ExitCode.USAGE
    assert not api.seen


def test_what_the_service_refuses_is_named_by_its_line(api: FakeApi, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.write_text('"a"\n\n\n{"prompt": "b", "max_length": 3}\n')
    done = run(api, source, "--out", tmp_path / "out")
    assert done.exit_code == ExitCode.USAGE
    assert done.stderr == "Line 4: At least 10 (field max_length).\n"


# --- going on


def test_the_same_again_changes_nothing(api: FakeApi, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"
    run(api, prompts, "--out", out)
    before, asked = out.read_bytes(), len(api.seen)
    done = run(api, prompts, "--out", out)
    assert (done.exit_code, out.read_bytes(), len(api.seen)) == (ExitCode.JOB_FAILED, before, asked)
    assert done.stderr == "25 results: 2 failed, 23 succeeded\n"


@pytest.mark.parametrize(
    "torn",
    [b"", b'{"half', b"\0" * 100_000, b'{"status": "succeeded"}\n', b"\n"],
    ids=["whole_lines", "half_a_line", "zeros", "no_cursor", "empty_line"],
)
def test_a_file_that_ends_in_the_middle(api: FakeApi, prompts: Path, tmp_path: Path, torn: bytes) -> None:
    out = tmp_path / "results.jsonl"
    run(api, prompts, "--out", out, "--batch-size", 10)
    whole = out.read_bytes()
    lines = whole.splitlines(keepends=True)
    for kept in (0, 9, 10, 24):
        out.write_bytes(b"".join(lines[:kept]) + torn)
        run(api, prompts, "--out", out, "--batch-size", 10)
        assert out.read_bytes() == whole
    assert len(api.batches.all) == 3


def test_a_lost_answer_makes_no_second_batch(api: FakeApi, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"
    api.fail_next(*[Failure(0, handled=True)] * 5)
    assert run(api, prompts, "--out", out).exit_code == ExitCode.NO_ACCESS
    run(api, prompts, "--out", out)
    assert len(api.batches.all) == 1
    assert_whole(out)


def test_a_run_of_its_own_is_a_batch_of_its_own(api: FakeApi, prompts: Path, tmp_path: Path) -> None:
    run(api, prompts, "--out", tmp_path / "a")
    run(api, prompts, "--out", tmp_path / "b")
    assert len(api.batches.all) == 2


@pytest.mark.parametrize("change", ["prompts", "options", "batch_size"])
def test_other_arguments_are_refused(api: FakeApi, prompts: Path, tmp_path: Path, change: str) -> None:
    out = tmp_path / "results.jsonl"
    run(api, prompts, "--out", out)
    before = out.read_bytes()
    if change == "prompts":
        prompts.write_text(prompts.read_text() + '"one more"\n')
    more = {"options": ["--seed", "1"], "batch_size": ["--batch-size", "10"]}.get(change, [])
    done = run(api, prompts, "--out", out, *more)
    assert done.exit_code == ExitCode.USAGE
    assert "other prompts or options" in done.stderr
    assert (out.read_bytes(), len(api.batches.all)) == (before, 1)


def test_a_file_that_is_not_a_runs_is_left_alone(api: FakeApi, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "thesis.txt"
    out.write_text("years of work")
    done = run(api, prompts, "--out", out)
    assert (done.exit_code, out.read_text()) == (ExitCode.USAGE, "years of work")
    (tmp_path / "thesis.txt.state").write_text("{}")
    assert run(api, prompts, "--out", out).exit_code == ExitCode.USAGE
    assert out.read_text() == "years of work"
    assert not api.seen


def test_two_at_once(api: FakeApi, prompts: Path, tmp_path: Path) -> None:
    api.batches.ends_per_look = 0
    out = tmp_path / "results.jsonl"
    with start(api, prompts, out) as process:
        assert eventually(lambda: bool(api.batches.all))
        done = run(api, prompts, "--out", out)
        process.kill()
    assert done.exit_code == ExitCode.USAGE
    assert "Another `smarttextgen batch`" in done.stderr


def test_an_answer_that_was_never_seen_a_day_ago(
    api: FakeApi, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "results.jsonl"
    api.fail_next(*[Failure(503)] * 5)
    assert run(api, prompts, "--out", out).exit_code == ExitCode.TRY_LATER
    later = time.time() + results_file.KEY_LIVES_S + 1
    monkeypatch.setattr(results_file.time, "time", lambda: later)
    done = run(api, prompts, "--out", out)
    assert done.exit_code == ExitCode.USAGE
    assert "smarttextgen batches list" in done.stderr
    assert not api.batches.all


def test_a_batch_that_is_gone(api: FakeApi, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"
    run(api, prompts, "--out", out)
    out.write_bytes(out.read_bytes()[:-1])
    api.batches.all.clear()
    assert run(api, prompts, "--out", out).exit_code == ExitCode.NOT_THERE


# --- as a process


def start(api: FakeApi, prompts: Path, out: Path, *words: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "smarttextgen", "batch", str(prompts), "--out", str(out), "--url", api.url]
    return subprocess.Popen(
        [*argv, "--api-key", KEY, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_killed_at_random_moments(api: FakeApi, tmp_path: Path) -> None:
    """SIGKILL until it is through: each prompt was submitted once, each result is there once."""
    chance = random.Random(7)
    api.batches.ends_per_look = 10
    api.batches.page = 7
    count = 120
    source = written(tmp_path / "in", [f"prompt {number} 我" for number in range(count)])
    out = tmp_path / "results.jsonl"
    killed = 0
    while True:
        asked = len(api.seen)
        with start(api, source, out, "--batch-size", "50") as process:
            assert eventually(lambda: len(api.seen) > asked or process.poll() is not None)  # noqa: B023  called at once
            try:
                process.wait(chance.uniform(0, 0.9) if killed else 0.0)
            except subprocess.TimeoutExpired:
                process.kill()
                killed += 1
        if process.returncode == 0:
            break
    assert killed >= 5
    assert_whole(out, count)
    assert [len(each.requests) for each in api.batches.all.values()] == [50, 50, 20]


def test_ctrl_c_says_how_to_go_on(api: FakeApi, prompts: Path, tmp_path: Path) -> None:
    api.batches.ends_per_look = 0
    process = start(api, prompts, tmp_path / "out")
    assert eventually(lambda: len(api.seen) > 2)
    process.send_signal(2)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == ExitCode.INTERRUPTED
    assert "the same command goes on from here" in errors
    assert not api.requests("POST", "/api/batches/batch_1/cancel")
    api.batches.ends_per_look = 100
    assert run(api, prompts, "--out", tmp_path / "out").exit_code == ExitCode.JOB_FAILED
    assert_whole(tmp_path / "out")


# --- batches


def test_batches_commands(api: FakeApi) -> None:
    env = {"SMARTTEXTGEN_URL": api.url, "SMARTTEXTGEN_API_KEY": KEY}
    runner = CliRunner()
    api.batches.create({"prompts": [f"prompt {number}" for number in range(5)]})
    api.batches.ends_per_look = 2

    def words(*given: str) -> Result:
        return runner.invoke(app, ["batches", *given], env=env)

    assert "batch_1" in words("list").stdout
    shown = words("get", "batch_1").stdout
    assert "in_progress" in shown
    assert "2 succeeded, 3 queued" in shown
    lines = [json.loads(line) for line in words("results", "batch_1").stdout.splitlines()]
    assert lines
    follow = words("results", "batch_1", "--cursor", lines[1]["cursor"], "--follow").stdout.splitlines()
    assert len(follow) == 3
    assert len(json.loads(words("results", "batch_1", "--json").stdout)) == 5
    assert words("cancel", "batch_1").stdout == "canceled\n"
    for name in ("list", "get batch_1", "cancel batch_1", "delete batch_1"):
        assert json.loads(words(*name.split(), "--json").stdout)
    assert words("get", "batch_1").exit_code == ExitCode.NOT_THERE
