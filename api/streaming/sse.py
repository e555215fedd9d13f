"""Events as server-sent events (HTML standard, section 9.2), in bytes."""

from __future__ import annotations

import json
from typing import Any

from api.errors import error_body
from shared.errors import SmartTextGenError
from shared.job import Job
from shared.schemas import QueuedEvent
from shared.store.events import QUEUED, RESTARTED, STARTED, Event
from shared.views import job_view, logprobs_view, seconds

OPENING = b"retry: 1000\n\n"
"""What a stream begins with: how long a browser waits before it reconnects, milliseconds."""
PING = b": ping\n\n"


def render(event: Event, job: Job | None = None) -> bytes:
    """An event. ``job``: its record, for those that are not logged."""
    if said := event.new_text:
        more = {"logprobs": logprobs_view(said.places).model_dump()} if said.places else {}
        return _block("output", _json({"index": said.index, "delta": said.text, **more}), event.number)
    if event.kind in (STARTED, RESTARTED):
        return _block(event.kind, _json({"attempt": int(event.value)}), event.number)
    assert job is not None
    if event.kind == QUEUED:
        place = QueuedEvent(queue_position=job.queue_position, eta_seconds=seconds(job.eta_ms))
        return _block(QUEUED, place.model_dump_json(), event.number)
    return _block(event.kind, job_view(job, logprobs=False).model_dump_json(by_alias=True), event.number)


def render_error(error: SmartTextGenError) -> bytes:
    """What a stream ends with where it ends before its job. It has no number: a client goes on after the last event."""
    return _block("error", error_body(error).model_dump_json(), None)


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _block(name: str, data: str, number: int | None) -> bytes:
    # JSON escapes line breaks, so that the data is one line.
    head = "" if number is None else f"id: {number}\n"
    return f"{head}event: {name}\ndata: {data}\n\n".encode()
