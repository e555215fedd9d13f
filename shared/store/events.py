"""The events of a job: what its log holds, and what is made up from its record around that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from shared.errors import StreamCursorError, StreamGoneError
from shared.job import Job, JobRef

QUEUED = "queued"
STARTED = "started"
RESTARTED = "restarted"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job. ``number``: 1 for its first event, and ever growing. ``kind``: ``queued``;
    ``started`` or ``restarted``, with the attempt as ``value``; the index of a completion in digits, with new text; or the
    status of an end."""

    number: int
    kind: str
    value: str = ""

    @property
    def logged(self) -> bool:
        """Whether it says everything itself; the others need the job's record."""
        return self.kind in (STARTED, RESTARTED) or self.kind.isdigit()

    @classmethod
    def parse(cls, message: str) -> Event:
        """What the scripts publish: ``NUMBER KIND VALUE``. A number of 0: the job was deleted."""
        number, kind, value = message.split(" ", 2)
        return cls(int(number), kind, value)


@dataclass(frozen=True, slots=True)
class Said:
    """What a running attempt said: its entries (index of the completion, text) from the one numbered ``since`` on; its first
    one is number 0. Entries do not change once they were told to the store."""

    ref: JobRef
    attempt: int
    since: int
    entries: tuple[tuple[int, str], ...]


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
