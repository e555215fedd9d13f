"""The fake API's batches: some more of their jobs end at each look at their results."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from tests.smarttextgen.answers import Answer, error

CAP = 10_000


@dataclass
class FakeBatch:
    """``order`` is the order in which its jobs end; ``done`` of them have."""

    id: str
    requests: list[dict[str, Any]]
    order: list[int]
    done: int = 0
    canceled: bool = False

    @property
    def status(self) -> str:
        return "in_progress" if self.done < len(self.requests) else "canceled" if self.canceled else "completed"

    def view(self) -> dict[str, Any]:
        counts = {"total": len(self.requests), "succeeded": self.done, "queued": len(self.requests) - self.done}
        return {"id": self.id, "object": "batch", "status": self.status, "counts": counts, "jobs": None}

    def line(self, place: int) -> str:
        index = self.order[place]
        request = self.requests[index]
        failed = request["prompt"].startswith("fail")
        line = {
            "custom_id": request.get("custom_id"),
            "id": f"{self.id}_{index}",
            "index": index,
            "status": "failed" if failed else "succeeded",
            "output": None if failed else f"echo: {request['prompt']}",
            "error": {"code": "generation_failed", "message": "Out of luck"} if failed else None,
            "cursor": f"{self.id}:{place + 1}",
        }
        return json.dumps(line, ensure_ascii=False) + "\n"


@dataclass
class Batches:
    """``ends_per_look`` jobs end with each look; ``page`` bounds an answer; ``tear`` cuts that many off the next."""

    ends_per_look: int = 10**6
    page: int = 1000
    tear: int = 0
    all: dict[str, FakeBatch] = field(default_factory=dict)

    def create(self, body: dict[str, Any]) -> Answer:
        shared = {name: value for name, value in body.items() if name not in ("prompts", "requests")}
        requests = body.get("requests") or [{"prompt": prompt} for prompt in body["prompts"]]
        if len(requests) > CAP:
            return Answer(422, error("invalid_request", "At most 10000.", "requests"))
        for index, request in enumerate(requests):
            if not 10 <= request.get("max_length", 100) <= 500:
                return Answer(422, error("invalid_request", "At least 10.", f"requests.{index}.max_length"))
        order = sorted(range(len(requests)), key=lambda index: (index * 7919) % 101)
        batch = FakeBatch(f"batch_{len(self.all) + 1}", [shared | request for request in requests], order)
        self.all[batch.id] = batch
        return Answer(202, batch.view())

    def route(self, method: str, words: list[str], query: dict[str, str]) -> Answer:  # noqa: PLR0911  a table of routes
        if not words:
            return Answer(200, {"data": [each.view() for each in reversed(self.all.values())], "has_more": False})
        batch = self.all.get(words[0])
        if batch is None:
            return Answer(404, error("not_found", "No such batch."))
        match (method, *words[1:]):
            case ("GET",):
                self._go_on(batch)
                return Answer(200, batch.view())
            case ("GET", "results"):
                return self._results(batch, query)
            case ("POST", "cancel"):
                batch.canceled = True
                return Answer(202, batch.view())
            case ("DELETE",):
                del self.all[batch.id]
                return Answer(204)
        return Answer(404, error("not_found", "No such route."))

    def _go_on(self, batch: FakeBatch) -> None:
        batch.done = min(len(batch.requests), batch.done + self.ends_per_look)

    def _results(self, batch: FakeBatch, query: dict[str, str]) -> Answer:
        self._go_on(batch)
        cursor = query.get("cursor", f"{batch.id}:0")
        owner, _, place = cursor.partition(":")
        if owner != batch.id:
            return Answer(400, error("invalid_cursor", "A cursor of another batch.", "cursor"))
        places = range(int(place), min(batch.done, int(place) + min(self.page, int(query.get("limit", 100)))))
        body = "".join(batch.line(each) for each in places).encode()
        if self.tear:
            body, self.tear = body[: -self.tear], 0
        headers = {"X-Batch-Status": batch.status, "X-Next-Cursor": f"{batch.id}:{places.stop}"}
        return Answer(200, body, headers | {"Content-Type": "application/x-ndjson"})
