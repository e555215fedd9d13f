"""The real server on a real Redis: round trips, memory, broken clients, outages, the end."""

from __future__ import annotations

import contextlib
import http.client
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from shared.job import Choice, JobRef, JobStatus, Outcome, Usage
from shared.store.protocol import JobFilter, ModelInfo, WorkerInfo
from shared.store.scripts import Scripts
from tests.api.live import LiveApi, Monitor
from tests.servers import RedisServer, later, until

BODY = {"prompt": "hello"}
WORKER = WorkerInfo("w1", ModelInfo("demo", "1", "echo", "cpu", "none", 1024), 4, "draining")
"""Has a lease, so it may claim; has no slots, so nothing is sent to it."""
THREADS = 16
TOO_LONG = (
    b"POST /api/generate HTTP/1.1\r\nHost: x\r\nX-API-Key: KEY\r\nContent-Type: application/json\r\n"
    b"Content-Length: 99999999\r\n\r\n{"
)


@pytest.fixture(scope="module")
def api(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    folder = tmp_path_factory.mktemp("api")
    prefix = f"t{secrets.token_hex(4)}"
    with LiveApi(
        redis_url, prefix, folder, API_THREADS=str(THREADS), API_KEY_CACHE_S="60", API_MAX_WAITERS="12"
    ) as live:
        yield live


def _finish(live: LiveApi, job_id: str, output: str = "world") -> None:
    ref = JobRef("shop", job_id)
    live.store.beat(WORKER, ())
    assert live.store.claim(ref, "w1", "t") is not None
    live.store.finish(ref, "w1", 1, Outcome(JobStatus.SUCCEEDED, (Choice(0, output, "stop"),), Usage(1, 1)))


@pytest.fixture
def monitor(redis_server: RedisServer) -> Iterator[Monitor]:
    found = Monitor(redis_server.port)
    yield found
    found.close()


def _calls(live: LiveApi, monitor: Monitor) -> dict[str, int]:
    names = {script.sha: name for name, script in Scripts(live.redis, "").__dict__["_scripts"].items()}
    counts: dict[str, int] = {}
    for line in monitor.scripts():
        name = next(name for sha, name in names.items() if sha in line)
        counts[name] = counts.get(name, 0) + 1
    counts.pop("fleet", None)  # the one thread's
    return counts


def test_round_trips(api: LiveApi, monitor: Monitor) -> None:
    job_id = api.call("POST", "/api/generate", BODY).json["id"]  # loads scripts, connects, remembers the key
    api.call("GET", f"/api/jobs/{job_id}")
    api.call("POST", "/api/generate_batch", {"prompts": ["a"]})
    monitor.scripts()
    monitor.lines.clear()
    for number in range(5):
        assert api.call("POST", "/api/generate", BODY, Idempotency_Key=f"k{number}").status == 202
        assert api.call("POST", "/api/generate_batch", {"prompts": ["a"] * 10}).status == 202
        assert api.call("PUT", f"/api/jobs/mine-{number}", BODY).status == 201
    assert _calls(api, monitor) == {"submit": 10, "batch_admit": 5}
    others = [line for line in monitor.lines if "EVALSHA" not in line.upper() and "celery" not in line.lower()]
    assert [line for line in others if "PING" not in line.upper()] == []
    monitor.lines.clear()
    for _ in range(5):
        assert api.call("GET", f"/api/jobs/{job_id}").status == 200
    assert _calls(api, monitor) == {"get": 5}
    monitor.lines.clear()
    with later(0.5, _finish, api, job_id):
        assert api.call("GET", f"/api/jobs/{job_id}?wait=10").json["status"] == "succeeded"
    assert _calls(api, monitor)["get"] == 2


def test_a_wait_ends_with_the_job(api: LiveApi) -> None:
    def work() -> None:
        until(lambda: api.store.list_jobs("shop", _with_user("waiter"), None, 1).data)
        _finish(api, api.store.list_jobs("shop", _with_user("waiter"), None, 1).data[0].id, "there")

    thread = threading.Thread(target=work)
    thread.start()
    started = time.monotonic()
    answer = api.call("POST", "/api/generate", BODY | {"user_id": "waiter"}, Prefer="wait=20")
    thread.join()
    assert (answer.status, answer.json["output"], answer.headers["preference-applied"]) == (200, "there", "wait=20")
    assert time.monotonic() - started < 5


def _with_user(user_id: str):
    return JobFilter(user_id=user_id)


def test_a_client_that_hangs_up_gives_its_place_back(api: LiveApi) -> None:
    job_id = api.call("POST", "/api/generate", BODY).json["id"]
    for _ in range(12):
        api.open(api.head(f"/api/jobs/{job_id}?wait=2", method="GET")).close()
    started = time.monotonic()
    assert api.call("GET", "/livez").status == 200
    assert time.monotonic() - started < 1
    time.sleep(2.5)
    started = time.monotonic()
    api.call("GET", f"/api/jobs/{job_id}?wait=1")
    assert time.monotonic() - started > 0.9, "there is a place again"


def test_long_polls_leave_threads_for_others(api: LiveApi) -> None:
    job_id = api.call("POST", "/api/generate", BODY).json["id"]
    waiting = [api.open(api.head(f"/api/jobs/{job_id}?wait=10", method="GET")) for _ in range(3 * THREADS)]
    time.sleep(0.5)
    started = time.monotonic()
    assert api.call("GET", "/api/modes").status == 200
    assert time.monotonic() - started < 2
    _finish(api, job_id)
    for sock in waiting:
        assert b"200 OK" in sock.recv(65536)
        sock.close()


@pytest.mark.parametrize("part", ["head", "body", "nothing", "drip", "keyless", "stays"])
def test_slow_senders_do_not_stop_the_service(api: LiveApi, part: str) -> None:
    started = {
        "head": b"POST /api/generate HTTP/1.1\r\nHost: x\r\nX-Api",
        "body": api.head("/api/generate", "Content-Length: 100") + b'{"prompt": "a',
        "nothing": b"",
        "keyless": b"POST /api/generate HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
        "stays": b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "drip": api.head("/api/generate", "Content-Length: 100000") + b'{"prompt": "a',
    }[part]
    stopped = threading.Event()
    slow = [api.open(started) for _ in range(6 * THREADS)]

    def drip() -> None:
        while not stopped.wait(0.3):
            for sock in slow:
                with contextlib.suppress(OSError):
                    sock.sendall(b"x")

    thread = threading.Thread(target=drip if part == "drip" else stopped.wait)
    thread.start()
    try:
        time.sleep(1)
        began = time.monotonic()
        for _ in range(5):
            assert api.call("POST", "/api/generate", BODY, timeout=20).status == 202
            assert api.call("GET", "/livez", timeout=20).status == 200
        assert time.monotonic() - began < 10
    finally:
        stopped.set()
        thread.join()
        for sock in slow:
            sock.close()


def test_a_body_that_never_ends_is_answered(api: LiveApi) -> None:
    answer = api.raw(api.head("/api/generate", "Content-Length: 100") + b'{"prompt": "a', timeout=40)
    assert (answer.status, answer.json["error"]["code"]) == (408, "request_timeout")


def test_a_body_that_stops_short_is_malformed(api: LiveApi) -> None:
    with api.open(api.head("/api/generate", "Content-Length: 100") + b'{"prompt": "a"}') as sock:
        sock.shutdown(socket.SHUT_WR)
        assert b" 400 " in sock.recv(65536)


@pytest.mark.parametrize(
    ("tail", "status", "code"),
    [
        (b"5\r\nhello\r\nZZ\r\n", 400, "malformed_request"),
        (b"-5\r\nhello\r\n0\r\n\r\n", 400, "malformed_request"),
        (b'11\r\n{"prompt": "hello"\r\n1\r\n}\r\n0\r\n\r\n', 400, "malformed_request"),
        (b'12\r\n{"prompt": "hello"\r\n1\r\n}\r\n0\r\n\r\n', 202, None),
        (b"100000\r\n" + b" " * 0x100000 + b"\r\n" + b"200000\r\n" + b" " * 0x200000 + b"\r\n0\r\n\r\n", 413, "payload_too_large"),
    ],
    ids=["size", "negative", "short", "fine", "long"],
)  # fmt: skip
def test_chunked_bodies(api: LiveApi, tail: bytes, status: int, code: str | None) -> None:
    answer = api.raw(api.head("/api/generate", "Transfer-Encoding: chunked") + tail)
    assert answer.status == status
    if code:
        assert answer.json["error"]["code"] == code


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /api/history/%ff HTTP/1.1\r\nHost: x\r\nX-API-Key: KEY\r\n\r\n", 400),
        (b"GET /api/jobs?user_id=%ff HTTP/1.1\r\nHost: x\r\nX-API-Key: KEY\r\n\r\n", 400),
        (b"GET /api/history/\xff HTTP/1.1\r\nHost: x\r\nX-API-Key: KEY\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nX-Api-Key: \xff\xfe\r\n\r\n", 200),
        (b"GET /api/modes HTTP/1.1\r\nHost: x\r\nX-Api-Key: \xff\xfe\r\n\r\n", 401),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /health HTTP/9.9\r\nHost: x\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nBad Header: a\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 20_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"POST /api/generate HTTP/1.1\r\nHost: x\r\nX-API-Key: KEY\r\nContent-Length: x\r\n\r\n", 400),
        (TOO_LONG, 413),
    ],
)  # fmt: skip
def test_what_is_hardly_http_gets_an_error_of_ours(api: LiveApi, data: bytes, status: int) -> None:
    answer = api.raw(data.replace(b"KEY", api.key.encode()))
    assert answer.status == status, answer.body
    if status != 200:
        assert set(answer.json["error"]) == {"message", "type", "param", "code"}


def test_memory(api: LiveApi) -> None:
    for number in range(60):
        api.call("POST", "/api/generate", {"prompt": "x" * 8000, "user_id": f"u{number}"})
    api.call("POST", "/api/generate_batch", {"prompts": ["x" * 2000] * 500})
    api.call("GET", "/api/jobs?limit=100")
    api.call("GET", "/openapi.json")
    sizes = [worker.memory_info().rss / 2**20 for worker in api.workers()]
    print(f"resident: {sizes} MiB")
    assert len(sizes) == 1
    assert sizes[0] < 120


def test_an_outage_of_redis(own_redis: RedisServer, tmp_path) -> None:
    with LiveApi(own_redis.url, "outage", tmp_path) as live:
        job_id = live.call("POST", "/api/generate", BODY).json["id"]
        own_redis.kill()
        for _ in range(2):  # with the key still remembered, and after
            for method, path, body in (
                ("POST", "/api/generate", BODY), ("POST", "/api/generate_batch", {"prompts": ["a"]}),
                ("GET", f"/api/jobs/{job_id}", None), ("GET", "/api/jobs", None), ("GET", "/api/history/a", None),
                ("GET", "/api/admin/keys", None), ("GET", "/readyz", None),
            ):  # fmt: skip
                began = time.monotonic()
                answer = live.call(method, path, body)
                assert (answer.status, answer.json["error"]["code"]) == (503, "store_unavailable"), (path, answer.body)
                assert answer.headers["retry-after"]
                assert time.monotonic() - began < 5
            time.sleep(5)
        assert live.call("GET", "/livez").status == 200
        assert live.call("GET", "/health").json["status"] == "down"
        own_redis.start()
        began = time.monotonic()
        until(lambda: live.call("GET", "/readyz").status == 200, 10)
        until(lambda: live.call("POST", "/api/generate", BODY).status == 202, 10)
        assert live.call("GET", f"/api/jobs/{job_id}").json["status"] == "queued"
        with later(1.5, _finish, live, job_id):
            assert live.call("GET", f"/api/jobs/{job_id}?wait=20").json["status"] == "succeeded"
        assert time.monotonic() - began < 12, "the news of ended jobs arrive again"


def test_it_starts_without_redis(own_redis: RedisServer, tmp_path) -> None:
    with LiveApi(own_redis.url, "early", tmp_path, API_WORKERS="2") as live:
        assert live.stop() == 0
        own_redis.stop()
        live.start()
        assert [live.call("GET", path).status for path in ("/livez", "/readyz", "/api/jobs")] == [200, 503, 503]
        own_redis.start()
        until(lambda: live.call("GET", "/readyz").status == 200, 10)
        assert live.call("POST", "/api/generate", BODY).status == 202
        assert len(live.workers()) == 2


def test_a_wait_survives_an_outage(own_redis: RedisServer, tmp_path) -> None:
    with LiveApi(own_redis.url, "outage", tmp_path) as live:
        job_id = live.call("POST", "/api/generate", BODY).json["id"]
        answers = []
        poll = threading.Thread(
            target=lambda: answers.append(live.call("GET", f"/api/jobs/{job_id}?wait=20", timeout=40))
        )
        poll.start()
        time.sleep(0.5)
        own_redis.kill()
        own_redis.start()
        _finish(live, job_id)
        began = time.monotonic()
        poll.join()
        assert (answers[0].status, answers[0].json["status"]) == (200, "succeeded")
        assert time.monotonic() - began < 6, "woken by the new subscription, and not by its own end"


def test_a_redis_that_hangs(own_redis: RedisServer, tmp_path) -> None:
    with LiveApi(own_redis.url, "hang", tmp_path, REDIS_TIMEOUT_S="1") as live:
        assert live.call("POST", "/api/generate", BODY).status == 202
        own_redis.signal(signal.SIGSTOP)
        began = time.monotonic()
        answer = live.call("POST", "/api/generate", BODY)
        took = time.monotonic() - began
        own_redis.signal(signal.SIGCONT)
        assert (answer.status, answer.json["error"]["code"]) == (503, "store_unavailable")
        assert took < 6
        until(lambda: live.call("POST", "/api/generate", BODY).status == 202, 10)


def test_the_end(own_redis: RedisServer, tmp_path) -> None:
    with LiveApi(own_redis.url, "end", tmp_path) as live:
        job_id = live.call("POST", "/api/generate", BODY).json["id"]
        kept = http.client.HTTPConnection("127.0.0.1", live.port, timeout=10)
        assert live.on(kept, "GET", "/readyz").status == 200
        answers = []
        poll = threading.Thread(
            target=lambda: answers.append(live.call("GET", f"/api/jobs/{job_id}?wait=30", timeout=40))
        )
        poll.start()
        time.sleep(0.5)
        began = time.monotonic()
        live.process.process.send_signal(signal.SIGTERM)
        time.sleep(0.4)
        ready = live.on(kept, "GET", "/readyz")
        assert (ready.status, ready.json["error"]["code"]) == (503, "unavailable")
        kept.close()
        poll.join()
        assert (answers[0].status, answers[0].json["status"]) == (200, "queued")
        assert live.process.wait(10) == 0
        assert time.monotonic() - began < 8
        assert "Traceback" not in live.process.output()


def test_wrong_settings_are_a_sentence(tmp_path, redis_url: str) -> None:
    live = LiveApi(redis_url, "wrong", tmp_path, API_THREADS="x")
    with pytest.raises(AssertionError, match="API_THREADS"), live:
        pass
