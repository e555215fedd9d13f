"""Streams from a real worker over a real Redis and a real server to clients that come, go, and do not read."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

from tests.streams.client import Watcher, connected, watch
from tests.streams.conftest import Stack

TEXT = "héllo 你好 🙂\r\nline\n\n: x\u2028\0data: "


def test_a_stream_tells_everything_as_it_happens(stack: Stack) -> None:
    job_id = stack.submit(TEXT.replace("\0", ""), max_length=300)
    watcher = watch(stack.api.port, stack.api.key, job_id)
    job = watcher.require_whole()
    assert watcher.names[:2] == ["queued", "started"]
    assert set(watcher.names[2:-1]) == {"output"}
    assert len(watcher.names) > 8, "in pieces, and not at the end"
    assert watcher.numbers[0] == 1
    assert job == stack.job(job_id)
    assert job["output"]


def test_several_completions(stack: Stack) -> None:
    watcher = watch(stack.api.port, stack.api.key, stack.submit(n=3, temperature=0.5))
    assert len(watcher.require_whole()["choices"]) == 3


def test_every_cursor_of_an_ended_job_leads_to_the_same_end(stack: Stack) -> None:
    job_id = stack.submit(max_length=60)
    whole = watch(stack.api.port, stack.api.key, job_id)
    whole.require_whole()
    for cursor in range(whole.cursor):
        rest = watch(stack.api.port, stack.api.key, job_id, Watcher(cursor), header=cursor % 2 == 0)
        assert rest.numbers == list(range(cursor + 1, whole.cursor + 1))
        assert rest.end == whole.end
    with connected(
        stack.api.port, stack.api.key, f"/api/jobs/{job_id}/stream?starting_after={whole.cursor}"
    ) as response:
        assert (response.status, response.read()) == (204, b"")


def test_a_stream_that_is_killed_a_hundred_times_is_whole(stack: Stack) -> None:
    chance = random.Random(20261122)
    job_ids = [stack.submit(f"{number} 你好🙂 ", max_length=500) for number in range(12)]
    kills = 0

    def follow(job_id: str) -> Watcher:
        nonlocal kills
        watcher, most = Watcher(), 200
        while watcher.end is None:
            before = watcher.cursor
            watch(stack.api.port, stack.api.key, job_id, watcher, most_bytes=chance.randrange(1, most))
            most = most * 2 if watcher.cursor == before else 200  # the last event is a long one
            kills += watcher.end is None
        return watcher

    with ThreadPoolExecutor(12) as threads:
        watchers = list(threads.map(follow, job_ids))
    for job_id, watcher in zip(job_ids, watchers, strict=True):
        assert watcher.require_whole()["output"] == stack.job(job_id)["output"] == "".join(watcher.texts.values())
    assert kills >= 100
