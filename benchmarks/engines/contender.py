"""What an engine has to do to be compared, and what a run of it tells."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from benchmarks.workload import Job, model_folder

TOGETHER = "together"  # workload W: all requests at once
ARRIVALS = "arrivals"  # the same requests, one after the other at random times

Outputs = list[list[int]]


@dataclass(frozen=True, slots=True)
class Task:
    """One run of one engine: what ``benchmarks.engine`` hands to the process. As JSON on its command line.

    requests: how many of W's. rate: mean arrivals a second, for ``arrivals``. result: the file for the answer. threads,
    slots, budget: None leaves it to the engine.
    """

    engine: str
    shape: str
    workload: str
    folder: str
    result: str
    requests: int
    rate: float = 0.0
    threads: int | None = None
    slots: int | None = None
    budget: int | None = None
    pack: str = "auto"
    cb_requests: int = 16
    cb_tokens: int = 512

    @property
    def model(self) -> Path:
        return model_folder(self.shape, Path(self.folder))


@dataclass(slots=True)
class Stream:
    """What the reader of one request saw. Times are seconds after the first request was due.

    due: when it should be sent; sending late counts against the engine. times, counts: of each delivery, when it came and how
    many tokens it brought. tokens: the answer.
    """

    due: float
    times: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def deliver(self, began: float, count: int) -> None:
        """``count`` tokens came now; ``began``: the clock's reading at second 0."""
        if count:
            self.times.append(time.perf_counter() - began)
            self.counts.append(count)


class Contender(Protocol):
    """One engine on one model. Made loaded; greedy, float32, end-of-text ignored, exactly the tokens that a job asks for."""

    def generate(self, jobs: Sequence[Job]) -> Outputs:
        """All of them, sent at once. Returns their tokens, in the same order."""
        ...

    def serve(self, jobs: Sequence[Job], due: Sequence[float]) -> list[Stream]:
        """Each sent at its time, its tokens read as they come. Engines that cannot do that raise NotImplementedError."""
        ...

    def versions(self) -> dict[str, str]:
        """Of the packages that compute."""
        ...

    def close(self) -> None: ...


def wait_until(moment: float) -> None:
    """``moment``: a reading of time.perf_counter."""
    time.sleep(max(0.0, moment - time.perf_counter()))
