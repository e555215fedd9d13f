"""Load on a running deployment, by locust: people who poll, who wait, who stream, and who send batches.

    make load                                         # a stack of its own with the echo engine, 20 people, 40 s
    LOAD_KEY=stg_… locust -f benchmarks/locustfile.py --host http://127.0.0.1:8000

``LOAD_KEY``: an API key without a tight limit (each person makes some requests a second). ``LOAD_TOKENS``: max_length of a
job (20). A job's whole way, from its submit to its end as its client learns of it, is in the report as ``job: …``.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from locust import HttpUser, between, task

KEY = os.environ.get("LOAD_KEY", "")
TOKENS = int(os.environ.get("LOAD_TOKENS", "20"))
BATCH = 50
ENDS = {"succeeded", "failed", "canceled", "expired"}
_numbers = itertools.count()


class Person(HttpUser):
    """Does one of four things, then thinks for a moment."""

    wait_time = between(0.1, 0.5)

    def on_start(self) -> None:
        self.client.headers["X-API-Key"] = KEY

    @task(5)
    def submit_and_poll(self) -> None:
        with self._timed("job: poll"):
            job = self._submit()
            while job["status"] not in ENDS:
                time.sleep(0.2)
                job = self._get(f"/api/jobs/{job['id']}", "/api/jobs/[id]")
            _must_succeed(job)

    @task(3)
    def submit_and_wait(self) -> None:
        with self._timed("job: wait"):
            job = self._submit("?wait=20")
            while job["status"] not in ENDS:
                job = self._get(f"/api/jobs/{job['id']}?wait=20", "/api/jobs/[id]?wait")
            _must_succeed(job)

    @task(2)
    def stream(self) -> None:
        with self._timed("job: stream"):
            job = self._submit()
            url = f"/api/jobs/{job['id']}/stream"
            answer = self.client.get(url, name="/api/jobs/[id]/stream", stream=True, timeout=60)
            answer.raise_for_status()
            last = [line for line in answer.iter_lines() if line.startswith(b"event: ")][-1]
            if last != b"event: succeeded":
                raise RuntimeError(f"the stream ended with {last!r}")

    @task(1)
    def batch(self) -> None:
        with self._timed(f"batch of {BATCH}"):
            prompts = [f"a grey sock, number {next(_numbers)}" for _ in range(BATCH)]
            body = {"prompts": prompts, "max_length": TOKENS, "cache": False}
            batch = self._checked(self.client.post("/api/generate_batch", json=body))
            while batch["status"] == "in_progress":
                time.sleep(0.3)
                batch = self._get(f"/api/batches/{batch['id']}", "/api/batches/[id]")
            if batch["counts"]["succeeded"] != BATCH:
                raise RuntimeError(f"the batch ended with {batch['counts']}")

    def _submit(self, query: str = "") -> dict[str, Any]:
        body = {"prompt": f"a grey sock, number {next(_numbers)}", "max_length": TOKENS, "cache": False}
        answer = self.client.post(f"/api/generate{query}", json=body, name="/api/generate" + query.partition("=")[0])
        return self._checked(answer)

    def _get(self, url: str, name: str) -> dict[str, Any]:
        return self._checked(self.client.get(url, name=name))

    @staticmethod
    def _checked(answer: Any) -> dict[str, Any]:
        answer.raise_for_status()
        content: dict[str, Any] = answer.json()
        return content

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        """A row of its own in the report, for all the requests within."""
        began, error = time.perf_counter(), None
        try:
            yield
        except Exception as caught:  # noqa: BLE001  # whatever it is, the report counts it
            error = caught
        self.environment.events.request.fire(
            request_type="WHOLE", name=name, response_time=1000 * (time.perf_counter() - began), response_length=0,
            exception=error, context={},
        )  # fmt: skip


def _must_succeed(job: dict[str, Any]) -> None:
    if job["status"] != "succeeded":
        raise RuntimeError(f"the job ended {job['status']}: {job['error']}")
