"""What ``client.stream`` yields, and how the text is put together from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from smarttextgen.types import Job


@dataclass(frozen=True)
class Queued:
    """The job waits. ``id`` is the event's number, as in every event: ``starting_after`` goes on after it."""

    id: int
    queue_position: int | None = None
    eta_seconds: float | None = None


@dataclass(frozen=True)
class Started:
    """A worker has begun with it."""

    id: int
    attempt: int = 1


@dataclass(frozen=True)
class Restarted:
    """A worker has begun anew: the text so far is void."""

    id: int
    attempt: int = 2


@dataclass(frozen=True)
class Output:
    """More text of choice ``index``."""

    id: int
    index: int = 0
    delta: str = ""


@dataclass(frozen=True)
class Ended:
    """The last event: the job as it ended, however it did."""

    id: int
    job: Job


StreamEvent = Queued | Started | Restarted | Output | Ended


class Transcript:
    """The text of a stream. ``add`` each event to it; ``job`` is there once the stream has ended."""

    def __init__(self) -> None:
        self.job: Job | None = None
        self._pieces: dict[int, list[str]] = {}

    @classmethod
    def of(cls, events: Iterable[StreamEvent]) -> Self:
        """The transcript of a whole stream; returns when it has ended."""
        transcript = cls()
        for event in events:
            transcript.add(event)
        return transcript

    def add(self, event: StreamEvent) -> None:
        if isinstance(event, Output):
            self._pieces.setdefault(event.index, []).append(event.delta)
        elif isinstance(event, Restarted):
            self._pieces.clear()
        elif isinstance(event, Ended):
            self.job = event.job

    def text(self, index: int = 0) -> str:
        """The text so far of choice ``index``."""
        return "".join(self._pieces.get(index, ()))
