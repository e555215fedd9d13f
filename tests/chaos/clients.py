"""Clients that do as clients should: an Idempotency-Key, the same request again after whatever looks like bad weather. Each
writes down everything it was told."""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.chaos.poisoned import MARKER
from tests.chaos.threads import TrialThread

TIMEOUT_S = 6
WEATHER = {409, 429, 500, 502, 503, 504}
ENDS = {"succeeded", "failed", "canceled", "expired"}


class Diary:
    """What all clients saw, in order, in memory and as JSON lines."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w")
        self._lock = threading.Lock()
        self.entries: list[dict[str, Any]] = []

    def write(self, **entry: Any) -> None:
        with self._lock:
            entry["at"] = time.time()
            self.entries.append(entry)
            self._file.write(json.dumps(entry, ensure_ascii=False) + "\n")

    def close(self) -> None:
        self._file.close()


class Client(TrialThread):
    """Submits ``jobs`` jobs, spread over ``seconds``, follows them to their ends, and goes on until ``halt``. ``watch`` is told of
    some that it submits; some tell their end to ``hook``."""

    def __init__(
        self,
        name: str,
        tenant: str,
        secret: str,
        port: int,
        diary: Diary,
        seed: int,
        jobs: int,
        seconds: float,
        poison: int,
        watch: Callable[[str], None],
        hook: str,
    ) -> None:
        super().__init__(name)
        self._tenant, self._secret, self._port, self._diary = tenant, secret, port, diary
        self._random = random.Random(f"{seed}/{name}")
        self._jobs, self._seconds = jobs, seconds
        self._watch, self._hook = watch, hook
        self._poison = set(self._random.sample(range(jobs // 2), poison)) if poison else set()
        self._open: list[str] = []
        self._closed: list[str] = []

    def _run(self) -> None:
        begin, done = time.monotonic(), 0
        while not self.halt.is_set():
            due = min(self._jobs, int(self._jobs * (time.monotonic() - begin) / self._seconds) + 1)
            if done < due:
                self._submit(done)
                done += 1
            elif self._open:
                self._look(self._random.choice(self._open))
            elif done == self._jobs:
                return
            if self._tenant == "busy" and self._random.random() < 0.3:
                self._meddle()
            time.sleep(self._random.uniform(0, 0.05))

    # --- what it asks

    def _submit(self, number: int) -> None:
        body = self._body(number)
        key = f"{self.name}-{number}"
        chosen = self._random.random() < 0.2
        path = f"/api/jobs/own-{key}" if chosen else "/api/generate"
        headers = {} if chosen else {"Idempotency-Key": key}
        status, answer = self._insist("PUT" if chosen else "POST", path, body, headers)
        if status in {200, 201, 202}:
            self._diary.write(what="accepted", who=self.name, tenant=self._tenant, id=answer["id"], key=key, body=body)
            self._open.append(answer["id"])
            if self._random.random() < 0.4:
                self._watch(answer["id"])
            if self._random.random() < 0.1:  # as a client does whose connection died after the answer
                _, again = self._insist("PUT" if chosen else "POST", path, body, headers)
                self._diary.write(
                    what="accepted", who=self.name, tenant=self._tenant, id=again.get("id"), key=key, body=body
                )
        else:
            self._diary.write(what="refused", who=self.name, key=key, status=status, answer=answer)

    def _body(self, number: int) -> dict[str, Any]:
        if number in self._poison:
            return {"prompt": f"{MARKER} {self.name} {number}", "max_length": 30, "temperature": 0, "cache": False}
        user = self._random.choice([None, None, f"{self.name}-ann", f"{self.name}-bob"])
        body = {
            "prompt": f"{self.name} job {number}", "max_length": self._random.choice([10, 40, 100, 200]), "temperature": 0,
            "priority": self._random.choice(["high", "normal", "normal", "low"]), "cache": self._random.random() < 0.5,
        }  # fmt: skip
        hooked = self._random.random() < 0.4
        return body | ({"user_id": user} if user else {}) | ({"webhook": self._hook} if hooked else {})

    def _look(self, job_id: str) -> None:
        wait = "?wait=2" if self._random.random() < 0.3 else ""
        status, answer = self._ask("GET", f"/api/jobs/{job_id}{wait}")
        self._seen(job_id, status, answer)

    def _seen(self, job_id: str, status: int, answer: dict[str, Any]) -> None:
        if status in {200, 202} and "status" in answer:
            self._diary.write(
                what="seen", who=self.name, tenant=self._tenant, id=job_id, status=answer["status"],
                attempt=answer.get("attempt"), output=digest(answer.get("output")), finished_at=answer.get("finished_at"),
            )  # fmt: skip
            if answer["status"] in ENDS and job_id in self._open:
                self._open.remove(job_id)
                self._closed.append(job_id)
        elif status in {404, 410}:
            self._diary.write(what="missing", who=self.name, tenant=self._tenant, id=job_id)
            if job_id in self._open:
                self._open.remove(job_id)

    def _meddle(self) -> None:
        """Cancel something that goes on, or run again or delete something that ended."""
        dice = self._random.random()
        if dice < 0.6 and self._open:
            job_id = self._random.choice(self._open)
            self._seen(job_id, *self._ask("POST", f"/api/jobs/{job_id}/cancel"))
        elif dice < 0.85 and self._closed:
            job_id = self._random.choice(self._closed)
            status, answer = self._ask("POST", f"/api/jobs/{job_id}/retry")
            self._diary.write(what="retry", who=self.name, tenant=self._tenant, id=job_id, status=status)
            if status == 202:
                self._closed.remove(job_id)
                self._open.append(job_id)
                self._seen(job_id, status, answer)
        elif self._closed:
            job_id = self._closed.pop(self._random.randrange(len(self._closed)))
            status, _ = self._ask("DELETE", f"/api/jobs/{job_id}")
            self._diary.write(what="delete", who=self.name, tenant=self._tenant, id=job_id, status=status)

    # --- how it asks

    def _insist(self, method: str, path: str, body: Any, headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """The same request until there is an answer that is about the request and not about the weather."""
        while True:
            status, answer = self._ask(method, path, body, headers)
            code = (answer.get("error") or {}).get("code")  # a finished job has an error of null
            stays = status not in WEATHER and status != 0
            if stays or (status == 409 and code != "idempotency_in_progress") or self.halt.is_set():
                return status, answer
            time.sleep(self._random.uniform(0.1, 0.5))

    def _ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Status and body; 0 where the connection died."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
        sent = {"X-API-Key": self._secret, "Content-Type": "application/json"} | (headers or {})
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, sent)
            response = connection.getresponse()
            data = response.read()
            return response.status, json.loads(data) if data else {}
        except (OSError, http.client.HTTPException, ValueError):
            return 0, {}
        finally:
            connection.close()


def digest(text: str | None) -> str | None:
    return None if text is None else hashlib.sha256(text.encode()).hexdigest()[:16]
