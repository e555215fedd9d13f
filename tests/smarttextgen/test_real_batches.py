"""Batches through the real service: Redis, gunicorn, a worker with the echo engine."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from smarttextgen import Client, ConflictError, InvalidRequestError, NotFoundError
from smarttextgen.cli.exits import ExitCode
from tests.smarttextgen.live_stack import LiveStack, live_stack


@pytest.fixture(scope="module")
def stack(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveStack]:
    with live_stack(redis_url, "sdkbatch", tmp_path_factory.mktemp("stack")) as made:
        made.start_worker(ECHO_TOKEN_DELAY_S="0.002")
        yield made


@pytest.fixture
def client(stack: LiveStack) -> Iterator[Client]:
    with Client(stack.url, stack.key) as made:
        yield made


def test_results_as_they_come(client: Client) -> None:
    prompts = [{"prompt": f"prompt {number} 我", "custom_id": f"c{number}"} for number in range(60)]
    batch = client.batches.create(["plain", *prompts], max_length=20, mode="support")
    assert batch.counts["total"] == 61
    results = list(client.batches.results(batch.id, timeout=60))
    assert sorted(each.index for each in results) == list(range(61))
    assert all(each.custom_id == (f"c{each.index - 1}" if each.index else None) for each in results)
    assert all(each.succeeded and each.output and each.usage for each in results)
    assert list(client.batches.results(batch.id, cursor=results[40].cursor)) == results[41:]
    ended = client.batches.wait(batch.id, 30)
    assert (ended.status, ended.ended, len(ended.jobs)) == ("completed", True, 61)
    assert ended.outputs[0] == next(each.output for each in results if each.index == 0)
    assert batch.id in {each.id for each in client.batches.list()}
    with pytest.raises(ConflictError):
        client.batches.cancel(batch.id)
    client.batches.delete(batch.id)
    with pytest.raises(NotFoundError):
        client.batches.get(batch.id)


def test_cancel(client: Client) -> None:
    batch = client.batches.create(["no model runs this"] * 5, priority="low", model="demo", max_length=500)
    client.batches.cancel(batch.id)
    assert client.batches.wait(batch.id, 30).status in ("canceled", "completed")
    assert len(list(client.batches.results(batch.id, timeout=30))) == 5


def test_what_the_service_refuses(client: Client) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        client.batches.create(["a", {"prompt": "b", "max_length": 3}])
    assert raised.value.param == "requests.1.max_length"
    with pytest.raises(InvalidRequestError):
        client.batches.create([])
    batch, other = client.batches.create(["a"]), client.batches.create(["b"])
    (result,) = client.batches.results(batch.id, timeout=30)
    with pytest.raises(InvalidRequestError) as raised:
        list(client.batches.results(other.id, cursor=result.cursor))
    assert raised.value.code == "invalid_cursor"


def test_a_bad_line_is_named(stack: LiveStack, tmp_path: Path) -> None:
    source = tmp_path / "prompts.jsonl"
    source.write_text('"fine"\n\n{"prompt": "b", "max_length": 3}\n')
    done = run(stack, source, tmp_path / "out")
    done.wait(30)
    with done:
        assert done.stderr is not None
        assert done.stderr.read().startswith("Line 3: ")
    assert done.returncode == ExitCode.USAGE


def run(stack: LiveStack, source: Path, out: Path, *words: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "smarttextgen", "batch", str(source), "--out", str(out), "--url", stack.url]
    return subprocess.Popen(
        [*argv, "--api-key", stack.key, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_the_command_killed_at_random_moments(stack: LiveStack, client: Client, tmp_path: Path) -> None:
    """Each prompt is submitted once, each result is there once, whatever was killed when."""
    chance = random.Random(11)
    count = 250
    source, out = tmp_path / "prompts.jsonl", tmp_path / "results.jsonl"
    source.write_text("".join(json.dumps({"prompt": "x", "custom_id": f"n{number}"}) + "\n" for number in range(count)))
    before = {batch.id for batch in client.batches.list()}
    killed = 0
    while True:
        with run(stack, source, out, "--batch-size", "100", "--max-length", "60") as process:
            try:
                process.wait(chance.uniform(0.3, 1.2) if killed < 8 else 60)
            except subprocess.TimeoutExpired:
                process.kill()
                killed += 1
        if process.returncode == 0:
            break
        assert process.returncode == -9
    results = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(each["index"] for each in results) == list(range(count))
    assert all(each["custom_id"] == f"n{each['index']}" for each in results)
    assert killed >= 2
    made = [batch for batch in client.batches.list() if batch.id not in before]
    assert [batch.counts["total"] for batch in made] == [50, 100, 100]
    kept = {each.id: each.output for batch in made for each in client.batches.results(batch.id)}
    assert {each["id"]: each["output"] for each in results} == kept
