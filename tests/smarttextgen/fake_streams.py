"""The fake API's event streams: logs written by the test, connections that break where it says."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.smarttextgen.answers import Answer, error

PING_S = 0.1


@dataclass
class Cut:
    """Where a connection ends: after ``size`` bytes of its body, in the manner of a crash or of a clean end."""

    size: int
    clean: bool = False


@dataclass
class Log:
    """The events of a job. What is appended reaches the readers that are connected."""

    events: list[tuple[str, Any]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def add(self, kind: str, **data: Any) -> None:
        with self.changed:
            self.events.append((kind, data))
            self.changed.notify_all()

    @property
    def ended(self) -> bool:
        return bool(self.events) and self.events[-1][0] in ("succeeded", "failed", "canceled", "expired")


class Streams:
    """``logs`` by job; ``cuts`` are taken one for each connection, ``errors`` likewise: an event after ``n`` others."""

    def __init__(self) -> None:
        self.logs: dict[str, Log] = {}
        self.cuts: list[Cut] = []
        self.errors: list[tuple[int, str]] = []
        self.cursors: list[int | None] = []  # what each connection asked for
        self.closing = threading.Event()
        self.ping = True

    def log(self, job_id: str) -> Log:
        return self.logs.setdefault(job_id, Log())

    def open(self, job_id: str, headers: dict[str, str], query: dict[str, str]) -> Answer:
        log = self.logs.get(job_id)
        if log is None:
            return Answer(404, error("not_found", "No such job."))
        asked = headers.get("last-event-id", query.get("starting_after"))
        self.cursors.append(None if asked is None else int(asked))
        cursor = int(asked or 0)
        if cursor > len(log.events):
            return Answer(400, error("invalid_cursor", "That event is still to come."))
        if log.ended and cursor == len(log.events):
            return Answer(204)
        cut = self.cuts.pop(0) if self.cuts else None
        pieces = self._body(log, cursor, self.errors.pop(0) if self.errors else None)
        return Answer(
            200, headers={"Content-Type": "text/event-stream; charset=utf-8"}, pieces=pieces if cut is None else
            _cut(pieces, cut.size), crash=cut is not None and not cut.clean,
        )  # fmt: skip

    def _body(self, log: Log, cursor: int, failure: tuple[int, str] | None) -> Iterator[bytes]:
        yield b"retry: 1000\n\n"
        sent = 0
        while not self.closing.is_set():
            if failure is not None and sent >= failure[0]:
                body = error(failure[1], "The stream ends here.")
                yield f"event: error\ndata: {json.dumps(body)}\n\n".encode()
                return
            with log.changed:
                if cursor >= len(log.events):
                    if log.ended:
                        return
                    log.changed.wait(PING_S)
                fresh = log.events[cursor : cursor + 1]
            for kind, data in fresh:
                cursor, sent = cursor + 1, sent + 1
                line = json.dumps(data, ensure_ascii=False)
                yield f"id: {cursor}\nevent: {kind}\ndata: {line}\n\n".encode()
            if not fresh and self.ping:
                yield b": ping\n\n"


def _cut(pieces: Iterator[bytes], size: int) -> Iterator[bytes]:
    for piece in pieces:
        yield piece[:size]
        size -= len(piece)
        if size <= 0:
            return
