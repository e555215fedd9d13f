"""Streams from a real worker over a real Redis and a real server to clients that come, go, and do not read."""

from __future__ import annotations

import itertools
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import psutil
import pytest

from shared.job import JobRef
from shared.store.events import Said
from shared.store.protocol import ModelInfo, WorkerInfo
from tests.servers import RedisServer, until
from tests.streams.client import Watcher, connected, parse, watch
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

    numbers = itertools.count()
    with ThreadPoolExecutor(4) as threads:
        while kills < 100:
            job_ids = [stack.submit(f"{next(numbers)} 你好🙂 ", max_length=500) for _ in range(4)]
            for job_id, watcher in zip(job_ids, threads.map(follow, job_ids), strict=True):
                whole = watcher.require_whole()["output"]
                assert whole == stack.job(job_id)["output"] == "".join(watcher.texts.values())


def test_a_worker_that_is_killed_never_closes_a_stream(start_stack, redis_url: str) -> None:
    stack = start_stack(redis_url)
    first = stack.start_worker()
    job_ids = [stack.submit(f"{number} 你好🙂", max_length=400) for number in range(3)]
    watchers = [Watcher() for _ in job_ids]
    with ThreadPoolExecutor(3) as threads:
        done = [
            threads.submit(watch, stack.api.port, stack.api.key, job_id, watcher)
            for job_id, watcher in zip(job_ids, watchers, strict=True)
        ]
        until(lambda: all(stack.api.store.log(JobRef("shop", job_id), 0, 20).last > 5 for job_id in job_ids), 10)
        first.process.kill()
        stack.start_worker()
        for future in done:
            future.result(40)
    for watcher in watchers:
        assert watcher.require_whole()["status"] == "succeeded"
        assert watcher.names.count("restarted") == 1
        assert watcher.names.index("restarted") > 2
        assert watcher.end["attempt"] == 2


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_redis_is_away_for_a_while(start_stack, own_redis: RedisServer, how: str) -> None:
    stack = start_stack(own_redis.url, REDIS_TIMEOUT_S="1")
    stack.start_worker(WORKER_LEASE_S="10", WORKER_BEAT_S="0.5")
    job_ids = [stack.submit(f"{number} 你好🙂", max_length=500) for number in range(3)]
    watchers = [Watcher() for _ in job_ids]
    with ThreadPoolExecutor(3) as threads:
        done = [
            threads.submit(watch, stack.api.port, stack.api.key, job_id, watcher)
            for job_id, watcher in zip(job_ids, watchers, strict=True)
        ]
        until(lambda: all("output" in watcher.names or stack.api.store.log(JobRef("shop", job_id), 0, 9).last > 4
                          for job_id, watcher in zip(job_ids, watchers, strict=True)), 10)  # fmt: skip
        if how == "stop":
            own_redis.signal(signal.SIGSTOP)
            time.sleep(3)
            own_redis.signal(signal.SIGCONT)
        else:
            own_redis.kill()
            time.sleep(2)
            own_redis.start()
        for future in done:
            future.result(40)
    for watcher in watchers:
        assert watcher.require_whole()["status"] == "succeeded"
        assert "restarted" not in watcher.names


@pytest.mark.parametrize("end", ["canceled", "expired", "deleted"])
def test_other_ends(stack: Stack, end: str) -> None:
    options = {"execution_timeout_s": 1} if end == "expired" else {}
    job_id = stack.submit("你好🙂", max_length=500, **options)
    watcher = Watcher()
    thread = threading.Thread(target=watch, args=(stack.api.port, stack.api.key, job_id, watcher))
    thread.start()
    until(lambda: stack.api.store.log(JobRef("shop", job_id), 0, 9).last > 4, 10)
    if end == "canceled":
        stack.api.call("POST", f"/api/jobs/{job_id}/cancel")
    if end == "deleted":
        stack.api.call("DELETE", f"/api/jobs/{job_id}")
    thread.join(20)
    if end == "deleted":
        assert watcher.error == "not_found"
        return
    assert watcher.names[-1] == end
    assert watcher.require_whole()["output"]
    if end == "canceled":
        before = watcher.cursor
        stack.api.call("POST", f"/api/jobs/{job_id}/retry")
        again = watch(stack.api.port, stack.api.key, job_id, Watcher(before))
        assert again.names[:2] == ["queued", "restarted"]
        assert again.require_whole()["status"] == "succeeded"


def test_a_job_from_the_cache_is_streamed_too(stack: Stack) -> None:
    for cached in (False, True):
        job_id = stack.submit("the same 你好", max_length=50, temperature=0, cache=True)
        assert watch(stack.api.port, stack.api.key, job_id).require_whole()["cached"] is cached


def test_http_1_0_is_ended_by_hanging_up(stack: Stack) -> None:
    job_id = stack.submit(max_length=20)
    stack.until_ended(job_id)
    head = f"GET /api/jobs/{job_id}/stream HTTP/1.0\r\nX-API-Key: {stack.api.key}\r\n\r\n"
    with stack.api.open(head.encode()) as sock:
        received = b""
        while data := sock.recv(65_536):
            received += data
    answer, _, body = received.partition(b"\r\n\r\n")
    assert b"chunked" not in answer
    assert body.startswith(b"retry: 1000\n\nid: 1\n")
    assert parse(body.decode())[-1].event == "succeeded"


def test_clients_that_come_and_go_leave_nothing_behind(stack: Stack) -> None:
    job_id = stack.submit("waits", priority="low", model="demo", max_length=500)
    with connected(stack.api.port, stack.api.key, f"/api/jobs/{job_id}/stream") as response:
        assert response.headers["Connection"] == "close"
        assert response.read1(5) == b"retry"
    for _ in range(50):  # more than the key may have open
        with connected(stack.api.port, stack.api.key, f"/api/jobs/{job_id}/stream") as response:
            assert response.status == 200
    until(lambda: not channels(stack), 10)
    assert stack.api.call("GET", "/livez").status == 200


def channels(stack: Stack) -> list[str]:
    """Of jobs, that somebody listens to."""
    return stack.api.redis.pubsub_channels(f"{{{stack.api.settings.redis_prefix}}}:events:*")


def test_a_key_has_its_share_and_pings_come(stack: Stack) -> None:
    stack.api.call("POST", "/api/admin/queues/demo/pause")
    try:
        job_id = stack.submit()
        with ExitStack() as streams:
            path = f"/api/jobs/{job_id}/stream"
            responses = [streams.enter_context(connected(stack.api.port, stack.api.key, path)) for _ in range(20)]
            refused = stack.api.call("GET", path)
            assert (refused.status, refused.json["error"]["code"]) == (429, "stream_limit")
            began = time.monotonic()
            assert stack.api.call("GET", "/api/modes").status == 200
            assert time.monotonic() - began < 2
            for response in responses[::7]:
                received = b""
                while received.count(b": ping\n\n") < 2:
                    received += response.read1(65_536)
    finally:
        stack.api.call("POST", "/api/admin/queues/demo/resume")


def test_a_drain_of_the_server(start_stack, redis_url: str) -> None:
    stack = start_stack(redis_url, API_MAX_STREAMS="3000")
    assert psutil.Process(stack.api.process.process.pid).rlimit(psutil.RLIMIT_NOFILE)[0] >= 3000
    job_ids = [stack.submit() for _ in range(5)]
    watchers = [Watcher() for _ in job_ids]
    with ThreadPoolExecutor(5) as threads:
        done = [
            threads.submit(watch, stack.api.port, stack.api.key, job_id, watcher)
            for job_id, watcher in zip(job_ids, watchers, strict=True)
        ]
        until(lambda: len(channels(stack)) == 5, 10)
        began = time.monotonic()
        assert stack.api.stop() == 0
        for future in done:
            future.result(10)
        assert time.monotonic() - began < 10
    assert {watcher.error for watcher in watchers} == {"server_draining"}
    assert "Traceback" not in stack.api.process.output()


def test_slow_readers_of_a_real_server(start_stack, redis_url: str) -> None:
    """They hold no thread: the server has two, and there are six of them."""
    stack = start_stack(redis_url, API_THREADS="2", API_MAX_WAITERS="0", STREAM_STALL_S="1")
    job_id = stack.submit()
    ref = JobRef("shop", job_id)
    stack.api.store.beat(WorkerInfo("w1", ModelInfo("demo", "1", "echo", "cpu", "none", 1024), 4, "draining"), ())
    assert stack.api.store.claim(ref, "w1", "t") is not None
    slow = [stack.api.open(stack.api.head(f"/api/jobs/{job_id}/stream", method="GET")) for _ in range(6)]
    until(lambda: channels(stack), 10)
    for number in range(100):
        stack.api.store.progress("w1", [Said(ref, 1, number, (("0", "x" * 100_000),))])
    for _ in range(5):
        began = time.monotonic()
        assert stack.api.call("GET", "/api/modes").status == 200
        assert time.monotonic() - began < 2
    assert max(worker.memory_info().rss for worker in stack.api.workers()) < 250 * 2**20
    until(lambda: not channels(stack), 15)
    for sock in slow:
        sock.close()
