"""A small HTTP server that speaks the contract's job routes, with failures on demand. For tests of the SDK and CLI."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from tests.smarttextgen.answers import Answer
from tests.smarttextgen.answers import error as _error
from tests.smarttextgen.fake_batches import Batches
from tests.smarttextgen.fake_streams import Streams
from tests.smarttextgen.fake_webhooks import Webhooks

KEY, ADMIN_KEY = "sk-user", "sk-admin"


@dataclass
class Seen:
    """A request that came in."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass
class Failure:
    """What to answer instead, once; status 0 drops the connection (after the request has been handled or before)."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    handled: bool = False


class FakeApi:
    """``fail_next`` queues failures; ``seen`` are the requests; jobs end after ``polls_to_end`` looks at them."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.failures: list[Failure] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        self.answers: dict[str, Answer] = {}  # by Idempotency-Key
        self.polls_to_end = 1
        self.end: dict[str, Any] = {"status": "succeeded"}
        self.asked: set[tuple[Any, ...]] = set()
        self.keys: dict[str, dict[str, Any]] = {}
        self.histories: dict[str, list[dict[str, str]]] = {}
        self.streams, self.batches, self.webhooks = Streams(), Batches(), Webhooks()
        api = self

        class Handler(_Handler):
            fake = api

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.streams.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fail_next(self, *failures: Failure) -> None:
        self.failures.extend(failures)

    def requests(self, method: str, path: str) -> list[Seen]:
        return [each for each in self.seen if each.method == method and each.path == path]

    # --- what the routes do

    def create(self, body: dict[str, Any]) -> tuple[int, Any]:
        if body.get("mode") not in (None, "general", "support", "recommendation", "ecommerce"):
            return 400, _error("unknown_mode", "That mode does not exist: general, support", "mode")
        job_id = f"job_{len(self.jobs) + 1}"
        self.jobs[job_id] = {
            "id": job_id,
            "status": "queued",
            "queue_position": 1,
            "eta_seconds": 2.5,
            "looks": 0,
            **body,
        }
        short = {
            "id": job_id,
            "status": "queued",
            "queue_position": 1,
            "eta_seconds": 2.5,
            "created_at": "2026-11-22T12:00:00Z",
        }
        return 202, {**short, "urls": {"self": f"/api/jobs/{job_id}"}}

    def look(self, job_id: str) -> tuple[int, Any]:
        job = self.jobs.get(job_id)
        if job is None:
            return 404, _error("not_found", "No such job.")
        job["looks"] += 1
        if job["looks"] >= self.polls_to_end and job["status"] == "queued":
            job.update(_ended(job), **{"cached": self._asked_before(job), **self.end})
            if job.get("user_id"):
                self.histories.setdefault(job["user_id"], []).append({"input": job["input"], "output": job["output"]})
        return 200, {name: value for name, value in job.items() if name not in ("looks", "prompt")}

    def _asked_before(self, job: dict[str, Any]) -> bool:
        question = (job["prompt"], job.get("mode"), job.get("user_id"))
        asked_before = job.get("temperature") == 0.0 and question in self.asked
        self.asked.add(question)
        return asked_before

    def page(self, query: dict[str, str]) -> tuple[int, Any]:
        jobs = [{"id": job_id, "status": job["status"]} for job_id, job in reversed(self.jobs.items())]
        jobs = [job for job in jobs if query.get("status") in (None, job["status"])]
        start, limit = int(query.get("cursor", 0)), min(2, int(query.get("limit", 20)))
        more = start + limit < len(jobs)
        return 200, {
            "data": jobs[start : start + limit],
            "next_cursor": str(start + limit) if more else None,
            "has_more": more,
        }


def _ended(job: dict[str, Any]) -> dict[str, Any]:
    answer = f"echo: {job['prompt']}"
    return {
        "queue_position": None,
        "input": job["prompt"],
        "output": answer,
        "choices": [{"index": 0, "text": answer, "finish_reason": "stop", "logprobs": None}],
        "history": [{"input": job["prompt"], "output": answer}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 10, "total_tokens": 13, "cached_tokens": 0},
        "execution_time_ms": 200,
        "a_field_of_tomorrow": {"x": 1},
    }


class _Handler(BaseHTTPRequestHandler):
    fake: FakeApi
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # a client that left
            super().handle()

    def handle_any(self) -> None:
        parts = urlsplit(self.path)
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length)) if length else None
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        seen = Seen(self.command, parts.path, query, {k.lower(): v for k, v in self.headers.items()}, body)
        self.fake.seen.append(seen)
        failure = self.fake.failures.pop(0) if self.fake.failures else None
        if failure is None or failure.handled:
            answer = self.handled_once(seen)
        if failure is not None:
            if failure.status == 0:
                self.close_connection = True
                return
            answer = Answer(failure.status, failure.body, failure.headers)
        self.answer(answer)

    def handled_once(self, seen: Seen) -> Answer:
        key = seen.headers.get("idempotency-key")
        if key in self.fake.answers:
            return self.fake.answers[key]
        answer = self.route(seen)
        if not isinstance(answer, Answer):
            answer = Answer(*answer)
        if key and answer.status < 400:
            self.fake.answers[key] = answer
        return answer

    def route(self, seen: Seen) -> Answer | tuple[int, Any]:  # noqa: C901, PLR0911, PLR0912  a table of routes
        key = seen.headers.get("x-api-key")
        if seen.path == "/health":
            return 200, {"status": "ok", "model": "demo", "workers": 1, "queue_length": 0}
        if key not in (KEY, ADMIN_KEY):
            return 401, _error("invalid_api_key", "A valid API key is required.")
        words = [unquote(word) for word in seen.path.strip("/").split("/")[1:]]
        match (seen.method, *words):
            case ("POST", "generate"):
                return self.fake.create(seen.body)
            case ("POST", "generate_batch"):
                return self.fake.batches.create(seen.body)
            case (_, "batches", *rest):
                return self.fake.batches.route(seen.method, rest, seen.query)
            case (_, "webhooks", *rest):
                return self.fake.webhooks.route(seen.method, rest, seen.body, seen.query)
            case ("GET", "jobs", job_id, "stream"):
                return self.fake.streams.open(job_id, seen.headers, seen.query)
            case ("GET", "jobs"):
                return self.fake.page(seen.query)
            case ("GET", "jobs", job_id):
                return self.fake.look(job_id)
            case ("DELETE", "jobs", job_id):
                return (204, None) if self.fake.jobs.pop(job_id, None) else (404, _error("not_found", "No such job."))
            case ("POST", "jobs", job_id, "cancel"):
                return 200, {"id": job_id, "status": "canceled"}
            case ("POST", "jobs", job_id, "retry"):
                return 202, {"id": job_id, "status": "queued", "attempt": 1}
            case ("GET", "history", user_id):
                return 200, {"user_id": user_id, "history": self.fake.histories.get(user_id, [])}
            case ("DELETE", "history", user_id):
                self.fake.histories.pop(user_id, None)
                return 204, None
            case ("GET", "modes"):
                return 200, {"data": [{"name": "general", "description": "Answers anything."}, {"name": "support"}]}
            case ("GET", "models"):
                return 200, {"data": [{"name": "demo", "status": "ready", "workers": 1}]}
            case (_, "admin", "keys", *rest):
                return (
                    self.admin(seen, rest) if key == ADMIN_KEY else (403, _error("insufficient_scope", "Needs admin."))
                )
        return 404, _error("not_found", "No such route.")

    def admin(self, seen: Seen, rest: list[str]) -> tuple[int, Any]:
        keys = self.fake.keys
        if seen.method == "GET":
            return 200, {"data": list(keys.values()), "next_cursor": None, "has_more": False}
        if "idempotency-key" in seen.headers:
            return 400, _error("idempotency_not_supported", "The answer holds a secret.", "Idempotency-Key")
        if not rest:
            keys["key_1"] = {"id": "key_1", **seen.body}
            return 201, {**keys["key_1"], "key": "sk-new"}
        if rest[0] not in keys:
            return 404, _error("not_found", "No such key.")
        if seen.method == "DELETE":
            del keys[rest[0]]
            return 204, None
        return 200, {"id": rest[0], "key": "sk-rotated"}

    def answer(self, answer: Answer) -> None:
        body = answer.body
        content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(answer.status)
        for name, value in {"X-Request-Id": "req-1", **answer.headers}.items():
            self.send_header(name, value)
        if answer.pieces is not None:
            self.send_chunks(answer.pieces, crash=answer.crash)
            return
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def send_chunks(self, pieces: Iterator[bytes], *, crash: bool) -> None:
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for piece in pieces:
                if piece:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            if not crash:
                self.wfile.write(b"0\r\n\r\n")
        except OSError:  # its reader is gone
            crash = True
        self.close_connection = crash

    do_GET = do_POST = do_DELETE = do_PUT = do_PATCH = handle_any  # noqa: N815  names of http.server

    def log_message(self, *args: object) -> None:
        pass


def eventually(condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    """Whether ``condition`` holds before ``timeout_s`` seconds are over."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()
