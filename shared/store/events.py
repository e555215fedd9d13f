"""The events of a job: what its log holds, and what is made up from its record around that."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from shared.errors import StreamCursorError, StreamGoneError
from shared.job import Job, JobRef
from shared.logprobs import Place, columns, of_columns

QUEUED = "queued"
STARTED = "started"
RESTARTED = "restarted"
_OUTPUT = re.compile(r"(\d+)(l?)", re.ASCII)

Entry = tuple[str, str]
"""A kind and a value, as the log has them."""


@dataclass(frozen=True, slots=True)
class NewText:
    """New text of completion ``index``, and a place for each of its tokens where log-probabilities were asked for."""

    index: int
    text: str
    places: tuple[Place, ...] = ()


def entry_of(index: int, text: str, places: Sequence[Place] = ()) -> Entry:
    """What the log is to hold of new text."""
    if not places:
        return str(index), text
    value = json.dumps([text, *columns(places)], ensure_ascii=False, separators=(",", ":"))
    return f"{index}l", value


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job. ``number``: 1 for its first event, and ever growing. ``kind``: ``queued``;
    ``started`` or ``restarted``, with the attempt as ``value``; the index of a completion in digits, with new text, and with an
    ``l`` after it, new text and log-probabilities as JSON (``new_text`` reads both); or the status of an end."""

    number: int
    kind: str
    value: str = ""

    @property
    def logged(self) -> bool:
        """Whether it says everything itself; the others need the job's record."""
        return self.kind in (STARTED, RESTARTED) or _OUTPUT.fullmatch(self.kind) is not None

    @property
    def new_text(self) -> NewText | None:
        """What was said; None where this is no such event."""
        match = _OUTPUT.fullmatch(self.kind)
        if match is None:
            return None
        if not match[2]:
            return NewText(int(match[1]), self.value)
        text, *data = json.loads(self.value)
        return NewText(int(match[1]), text, of_columns(data))

    @classmethod
    def parse(cls, message: str) -> Event:
        """What the scripts publish: ``NUMBER KIND VALUE``. A number of 0: the job was deleted."""
        number, kind, value = message.split(" ", 2)
        return cls(int(number), kind, value)


@dataclass(frozen=True, slots=True)
class Said:
    """What a running attempt said: its entries (``entry_of``) from the one numbered ``since`` on; its first one is number 0.
    Entries do not change once they were told to the store."""

    ref: JobRef
    attempt: int
    since: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Told:
    """What came of saying it. ``count``: entries of the attempt that the log holds now; what is above that is to be said again
    (Redis may have lost some). -1: the attempt does not own the job any more. ``watched``: somebody follows the job."""

    count: int
    watched: bool


@dataclass(frozen=True, slots=True)
class JobLog:
    """A job and what of its log was asked for. ``start``: the number of this life's ``queued``; ``last``: the last number
    given, which is that of the end where the job has ended."""

    job: Job
    start: int
    last: int
    entries: tuple[Event, ...]

    def after(self, number: int) -> Iterator[Event]:
        """The events after this number; there may be more once these are seen. A number of an earlier life of the job
        goes on at the start of this one.

        Raises: StreamCursorError (no such event yet), StreamGoneError (those that would follow are not kept any more).
        """
        if number > self.last:
            raise StreamCursorError("This job has no such event.")
        logged_until = self.last - 1 if self.job.status.ended else self.last
        following = max(number + 1, self.start)
        if following == self.start:
            yield Event(self.start, QUEUED)
            following += 1
        for entry in self.entries:
            if entry.number < following:
                continue  # asked for by somebody who is further behind
            if entry.number > following:
                raise StreamGoneError()
            yield entry
            following += 1
        if following <= logged_until and not self.entries:
            raise StreamGoneError()
        if following == self.last and self.job.status.ended:
            yield Event(self.last, self.job.status.value)
