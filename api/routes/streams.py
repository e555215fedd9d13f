"""Watching a job: its events as they happen."""

from __future__ import annotations

import re

from flask import Response

from api.documents import Media
from api.identity import caller
from api.routing import Route
from api.services import services
from api.streaming.hub import PAGE, Opening
from api.streaming.response import StreamResponse
from api.streaming.sse import OPENING, render
from shared.errors import StreamCursorError
from shared.job import JobRef
from shared.schemas import JobPath, StreamHeader, StreamQuery

EXAMPLE = """retry: 1000

id: 1
event: queued
data: {"queue_position":1,"eta_seconds":0.8}

id: 2
event: started
data: {"attempt":1}

id: 3
event: output
data: {"index":0,"delta":"Once"}

id: 4
event: succeeded
data: {"id":"job_0b54d2f0c2a94a4db60a5fd41c3eae2d","status":"succeeded", …}
"""

EVENT = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "pattern": "^[0-9]+$"},
        "event": {
            "enum": [
                "queued", "started", "restarted", "output", "succeeded", "failed", "canceled", "expired", "error",
            ]
        },
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["event", "data"],
}  # fmt: skip

_NUMBER = re.compile(r"\d{1,15}", re.ASCII)


def routes() -> list[Route]:
    stream = Media("text/event-stream", "The events, as in the example.", EVENT, EXAMPLE)
    return [
        Route("GET", "/api/jobs/<job_id>/stream", stream_job, "jobs", {200: stream, 204: None}, (404, 410, 429)),
    ]


def stream_job(path: JobPath, query: StreamQuery, header: StreamHeader) -> Response:
    """Stream a job's events.

    Server-sent events, each with its number as `id`: `queued {queue_position, eta_seconds}`; `started {attempt}`;
    `output {index, delta}`, whose deltas together are the output, byte for byte, and with `logprobs` as in a job's choices
    where the job asked for them; `restarted {attempt}` where another
    worker had to begin again, or after a retry (drop the text so far); and one of `succeeded`, `failed`, `canceled`, `expired` with the whole job
    (without `logprobs`), after which the response ends. `error {error}`, without an id, ends a response before its job: `slow_reader`,
    `server_draining`, `stream_timeout` (go on with `Last-Event-ID`), `not_found` (the job was deleted) or `stream_gone`.
    A silent stream sends the comment `: ping`. `Last-Event-ID`, or else `starting_after`, names the event after which
    to go on: 400 `invalid_cursor` where there is no such event, 410 `stream_gone` where what follows it is not kept any more,
    204 where nothing follows it because it was the last one.
    """
    house = services()
    name, cursor = _cursor(query, header)
    ref = JobRef(caller().tenant, path.job_id)
    place = house.streams.take_place(caller().id)
    try:
        log = house.store.log(ref, cursor, PAGE)
        events = list(log.after(cursor))
    except BaseException as error:
        place.give_back()
        if isinstance(error, StreamCursorError):
            error.param = name
        raise
    if not events and log.job.status.ended:
        place.give_back()
        return Response(status=204)  # what tells a browser's EventSource not to come again
    last = events[-1].number if events else cursor
    body = OPENING + b"".join(render(event, log.job) for event in events)
    complete = log.job.status.ended and last == log.last
    return StreamResponse(house.streams, Opening(ref, last, place, body, complete))


def _cursor(query: StreamQuery, header: StreamHeader) -> tuple[str, int]:
    """Where the cursor was given, and the number of the event after which to go on. Raises: StreamCursorError."""
    name, given = "Last-Event-ID", header.last_event_id
    if given is None:
        name, given = "starting_after", query.starting_after
    if given is None:
        return name, 0
    if not _NUMBER.fullmatch(given):
        raise StreamCursorError("An event's number: an integer from 0 on.", param=name)
    return name, int(given)
