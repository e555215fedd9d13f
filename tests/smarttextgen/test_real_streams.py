"""Streams through the real service: Redis, gunicorn, workers with the echo engine."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from smarttextgen import (
    Client,
    Ended,
    InvalidRequestError,
    NotFoundError,
    Output,
    RateLimitedError,
    Restarted,
    Started,
    Transcript,
    WaitTimeoutError,
)
from tests.smarttextgen.cutting_proxy import CuttingProxy
from tests.smarttextgen.live_stack import LiveStack, live_stack

PROMPT = "One\u2028two\x85 我的包裹還沒到。🧦\r\n\n: data "
SLOW = {"ECHO_TOKEN_DELAY_S": "0.004"}


@pytest.fixture(scope="module")
def stack(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveStack]:
    with live_stack(redis_url, "sdkstream", tmp_path_factory.mktemp("stack"), MAX_STREAMS_PER_KEY="8") as made:
        made.start_worker(**SLOW)
        yield made


@pytest.fixture
def client(stack: LiveStack) -> Iterator[Client]:
    with Client(stack.url, stack.key) as made:
        yield made


def test_a_stream_is_the_answer(client: Client) -> None:
    job = client.submit(PROMPT, max_length=400, n=2, seed=1)
    events = list(client.stream(job, timeout=60))
    transcript = Transcript.of(events)
    ended = client.get(job.id)
    assert transcript.job == ended
    assert [transcript.text(index) for index in (0, 1)] == [choice.text for choice in ended.choices]
    assert sum(isinstance(event, Output) for event in events) > 5
    assert [event.id for event in events] == list(range(1, len(events) + 1))
    middle = len(events) // 2
    assert list(client.stream(job.id, starting_after=middle)) == events[middle:]
    assert list(client.stream(job.id, starting_after=len(events))) == []
    with pytest.raises(InvalidRequestError) as raised:
        next(client.stream(job.id, starting_after=len(events) + 1))
    assert raised.value.code == "invalid_cursor"


def test_a_hundred_cuts(stack: LiveStack) -> None:
    jobs = []
    with CuttingProxy(stack.api.port, seed=3, cuts=100, most=2500) as proxy, Client(proxy.url, stack.key) as client:
        texts: dict[str, str] = {}
        with Client(stack.url, stack.key) as straight:
            while proxy.cuts:
                jobs = [straight.submit(PROMPT, max_length=500) for _ in range(4)]
                for job in jobs:
                    texts[job.id] = Transcript.of(client.stream(job, timeout=60)).text()
            assert texts == {job_id: straight.get(job_id).output for job_id in texts}


def test_a_worker_that_is_killed(redis_url: str, tmp_path: Path) -> None:
    with live_stack(redis_url, "sdkkill", tmp_path) as stack, Client(stack.url, stack.key) as client:
        first = stack.start_worker(ECHO_TOKEN_DELAY_S="0.02")
        job = client.submit(PROMPT, max_length=120)
        events = []
        for event in client.stream(job, timeout=60):
            events.append(event)
            if isinstance(event, Output) and first.process.poll() is None:
                first.kill()
                stack.start_worker()
        assert Started(2, 1) in events
        assert any(isinstance(event, Restarted) for event in events)
        transcript = Transcript.of(events)
        assert transcript.text() == client.get(job.id).output
        assert sum(isinstance(event, Ended) for event in events) == 1


def test_a_service_that_restarts(redis_url: str, tmp_path: Path) -> None:
    """SIGTERM to the API while a job streams; the worker goes on meanwhile."""
    with live_stack(redis_url, "sdkdrain", tmp_path) as stack, Client(stack.url, stack.key, max_retries=0) as client:
        stack.start_worker(ECHO_TOKEN_DELAY_S="0.02")
        job = client.submit(PROMPT, max_length=150)
        events = client.stream(job, timeout=90)
        seen = [next(events) for _ in range(4)]

        def restart() -> None:
            stack.api.stop()
            stack.api.start()

        thread = threading.Thread(target=restart)
        thread.start()
        seen += events
        thread.join()
        assert [event.id for event in seen] == list(range(1, len(seen) + 1))
        assert Transcript.of(seen).text() == client.get(job.id).output


def test_what_is_refused(client: Client, stack: LiveStack) -> None:
    with pytest.raises(NotFoundError):
        next(client.stream("job_of_nobody"))
    job = client.submit(PROMPT, max_length=500, priority="low")
    open_streams = [client.stream(job) for _ in range(8)]
    for stream in open_streams:
        next(stream)
    with Client(stack.url, stack.key, max_retries=0) as hasty, pytest.raises(RateLimitedError) as raised:
        next(hasty.stream(job))
    assert raised.value.code == "stream_limit"
    for stream in open_streams:
        stream.close()
    assert Transcript.of(client.stream(job, timeout=30)).job is not None  # the places are free again


def test_a_job_that_is_deleted_meanwhile(client: Client) -> None:
    job = client.submit(PROMPT, max_length=500, model="demo")
    events = client.stream(job, timeout=30)
    next(events)
    client.delete(job.id)
    with pytest.raises(NotFoundError):
        list(events)


def test_a_timeout(client: Client) -> None:
    job = client.submit(PROMPT, max_length=500)
    with pytest.raises(WaitTimeoutError):
        list(client.stream(job, timeout=0.3))


def test_the_command(stack: LiveStack, client: Client) -> None:
    argv = [sys.executable, "-m", "smarttextgen", "submit", PROMPT, "--stream", "--max-length", "200"]
    done = subprocess.run([*argv, "--url", stack.url, "--api-key", stack.key], capture_output=True, check=True)
    job = next(client.jobs(status="succeeded"))
    assert done.stdout.decode() == f"{job.output}\n"
    lines = subprocess.run(
        [*argv, "--json", "--url", stack.url, "--api-key", stack.key], capture_output=True, check=True
    ).stdout.split(b"\n")
    assert json.loads(lines[-2])["event"] == "succeeded"


def test_the_command_is_interrupted(stack: LiveStack, client: Client) -> None:
    argv = [sys.executable, "-m", "smarttextgen", "submit", PROMPT, "--stream", "--max-length", "500"]
    process = subprocess.Popen(
        [*argv, "--url", stack.url, "--api-key", stack.key], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    job_id = errors.decode().split("smarttextgen wait ")[1].split("`")[0]
    assert client.wait(job_id, 30).succeeded
