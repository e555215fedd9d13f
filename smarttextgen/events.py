"""What ``client.stream`` yields, and how the text is put together from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from smarttextgen.types import Job, Logprobs, TokenLogprob


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
    """More text of choice ``index``, and the tokens that it is made of where ``logprobs`` was asked for."""

    id: int
    index: int = 0
    delta: str = ""
    logprobs: Logprobs | None = None


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
        self._tokens: dict[int, list[TokenLogprob]] = {}

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
            if event.logprobs is not None:
                self._tokens.setdefault(event.index, []).extend(event.logprobs.content)
        elif isinstance(event, Restarted):
            self._pieces.clear()
            self._tokens.clear()
        elif isinstance(event, Ended):
            self.job = event.job

    def text(self, index: int = 0) -> str:
        """The text so far of choice ``index``."""
        return "".join(self._pieces.get(index, ()))

    def tokens(self, index: int = 0) -> tuple[TokenLogprob, ...]:
        """The tokens so far of choice ``index``, where ``logprobs`` was asked for."""
        return tuple(self._tokens.get(index, ()))
