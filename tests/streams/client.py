"""A client of streams that may be killed at any moment, and puts together again what it got."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

ENDS = {"succeeded", "failed", "canceled", "expired"}


@dataclass(frozen=True)
class Sse:
    """One server-sent event. ``id`` is None where it has none."""

    id: int | None
    event: str
    data: Any


def parse(text: str) -> list[Sse]:
    """The whole events in a stream; what is broken off at its end is not one."""
    found = []
    for block in text.split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith((":", "retry")))
        if fields:
            assert set(fields) <= {"id", "event", "data"}, fields
            number = int(fields["id"]) if "id" in fields else None
            found.append(Sse(number, fields["event"], json.loads(fields["data"])))
    return found


@dataclass
class Watcher:
    """What somebody who watches a job has seen, over any number of streams."""

    cursor: int = 0
    numbers: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    texts: dict[int, str] = field(default_factory=dict)
    end: dict[str, Any] | None = None
    error: str | None = None

    def see(self, events: list[Sse]) -> None:
        for event in events:
            if event.event == "error":
                assert event.id is None
                self.error = event.data["error"]["code"]
                continue
            assert event.id is not None
            assert event.id > self.cursor, "no event twice"
            assert self.end is None, "nothing after the end"
            self.cursor = event.id
            self.numbers.append(event.id)
            self.names.append(event.event)
            if event.event == "output":
                self.texts[event.data["index"]] = self.texts.get(event.data["index"], "") + event.data["delta"]
            elif event.event == "restarted":
                self.texts = {}
            elif event.event in ENDS:
                self.end = event.data
                assert event.data["status"] == event.event

    def require_whole(self) -> dict[str, Any]:
        """The end was seen, nothing is missing, and the text is the output, byte for byte."""
        assert self.end is not None
        assert self.numbers == list(range(self.numbers[0], self.numbers[0] + len(self.numbers))), "nothing is missing"
        if self.end["choices"]:
            assert [self.texts.get(choice["index"], "") for choice in self.end["choices"]] == [
                choice["text"] for choice in self.end["choices"]
            ]
        return self.end


class BrokenError(Exception):
    """The connection ended without an end of the response."""


@contextmanager
def connected(port: int, key: str, path: str, **headers: str) -> Iterator[http.client.HTTPResponse]:
    """The response to a GET, not read yet; afterwards the connection is closed, rudely where it was not at its end."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("GET", path, headers={"X-API-Key": key} | names)
        response = connection.getresponse()
        yield response
    finally:
        connection.close()


def watch(
    port: int,
    key: str,
    job_id: str,
    watcher: Watcher | None = None,
    *,
    most_bytes: int | None = None,
    header: bool = True,
) -> Watcher:
    """Watch on from where the watcher is, until the response ends, or for so many bytes; then hang up.

    Raises: BrokenError where the server hangs up without an end.
    """
    watcher = watcher or Watcher()
    path = f"/api/jobs/{job_id}/stream"
    headers = {}
    if watcher.cursor and header:
        headers["Last-Event-ID"] = str(watcher.cursor)
    elif watcher.cursor:
        path += f"?starting_after={watcher.cursor}"
    received = b""
    with connected(port, key, path, **headers) as response:
        assert response.status == 200, response.read()
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        try:
            while most_bytes is None or len(received) < most_bytes:
                data = response.read1(65_536 if most_bytes is None else most_bytes - len(received))
                if not data:
                    break
                received += data
        except (TimeoutError, http.client.HTTPException, OSError) as error:
            watcher.see(parse(received.decode(errors="ignore")))
            raise BrokenError from error
    assert received.startswith(b"retry: 1000\n\n"[: len(received)])
    watcher.see(parse(received.decode(errors="ignore")))
    return watcher
