"""Token streams, the worker's side: what the engine says goes to the jobs' logs, gathered so that a token costs little.

The engine's thread leaves new text here and goes on. One thread of ours tells the store: the first text of a job at once,
what follows every ``flush_s`` seconds, all jobs in one call. The store answers whether somebody follows a job; of one that
nobody follows the rest is told every ``unwatched_s`` seconds, so that text which nobody reads costs little; but not before it
has spoken for ``JOINING_S``, since clients submit first and then open the stream. An entry that was
told once stays as it is, so that it can be told again after an outage of Redis without being logged twice; what was not told
when the job ends goes along with its end.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence

import structlog

from shared.errors import StoreUnavailableError
from shared.job import JobRef
from shared.store.events import Entry, Said, Told, entry_of
from shared.store.protocol import JobStore
from worker.background import Background
from worker.engine.protocol import Delta
from worker.places import place_of

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

LEAST_GAP_S = 0.01
"""Between two calls, also where many jobs say their first words at the same time."""
JOINING_S = 1.0
"""From a job's first words, for how long somebody may be about to follow it."""
RETRY_S = 0.5
"""Until the next call after one that failed."""


class Speech:
    """What one attempt says. ``say`` on the engine's thread, the rest on any."""

    def __init__(self, publisher: Publisher, ref: JobRef, attempt: int) -> None:
        self._publisher = publisher
        self._ref = ref
        self._attempt = attempt
        self._lock = threading.Lock()
        self._new: dict[int, list[Delta]] = {}
        self._entries: list[Entry] = []
        self._logged = 0
        self._watched: bool | None = None
        self._begun_at = math.inf

    def say(self, delta: Delta) -> None:
        """New text of the engine. Returns at once."""
        if not delta.text and not delta.places:
            return
        with self._lock:
            self._new.setdefault(delta.index, []).append(delta)
            first = self._begun_at == math.inf
            if first:
                self._begun_at = time.monotonic()
        self._publisher.wake(urgent=first)

    def untold(self) -> Said | None:
        """What is not known to be in the log; None where all of it is."""
        with self._lock:
            self._entries += [_entry(index, deltas) for index, deltas in self._new.items()]
            self._new = {}
            entries = tuple(self._entries[self._logged :])
            return Said(self._ref, self._attempt, self._logged, entries) if entries else None

    def told(self, told: Told) -> None:
        """So many entries are in the log; fewer than before where Redis lost some."""
        with self._lock:
            self._logged = told.count
            self._watched = told.watched

    @property
    def hurries(self) -> bool:
        """Whether somebody follows the job, or may be about to."""
        return self._watched is not False or time.monotonic() < self._begun_at + self._publisher.joining_s

    def close(self) -> Said | None:
        """Nothing more is said, or told from here. Returns what goes along with the end."""
        self._publisher.forget(self)
        return self.untold()


def _entry(index: int, deltas: Sequence[Delta]) -> Entry:
    """What was said of a completion since the last entry, as one."""
    places = [place_of(place) for delta in deltas for place in delta.places]
    return entry_of(index, "".join(delta.text for delta in deltas), places)


class Publisher(Background):
    """Tells the store what the running attempts of one worker say. ``flush_s``, ``unwatched_s``: for how long text is gathered of
    jobs that somebody follows, and of the others. ``joining_s``: for how long from its first words a job counts as followed."""

    def __init__(
        self, store: JobStore, worker: str, *, flush_s: float, unwatched_s: float, joining_s: float = JOINING_S
    ) -> None:
        self._store = store
        self._worker = worker
        self._flush_s = flush_s
        self._unwatched_s = unwatched_s
        self.joining_s = joining_s
        self._all_at = 0.0  # when text of unwatched jobs is told next; of the publisher's thread
        self._lock = threading.Lock()
        self._speeches: set[Speech] = set()
        self._due = threading.Event()
        self._urgent = threading.Event()
        super().__init__("publisher")

    def open(self, ref: JobRef, attempt: int) -> Speech:
        """For an attempt that begins. It has to be closed, whatever becomes of the attempt."""
        speech = Speech(self, ref, attempt)
        with self._lock:
            self._speeches.add(speech)
        return speech

    def forget(self, speech: Speech) -> None:
        with self._lock:
            self._speeches.discard(speech)

    def wake(self, *, urgent: bool) -> None:
        """Something was said; urgent where somebody may have waited for it since the job was sent."""
        if urgent:
            self._urgent.set()
        if not self._due.is_set():
            self._due.set()

    def stop(self) -> None:
        self._ended.set()
        self.wake(urgent=True)
        super().stop()

    def _loop(self) -> None:
        while True:
            self._due.wait()
            if self._ended.is_set():
                return
            self._due.clear()
            self._urgent.clear()
            if self._tell():
                self._ended.wait(LEAST_GAP_S)
                self._urgent.wait(self._pause() - LEAST_GAP_S)
            else:
                self._due.set()
                self._ended.wait(RETRY_S)

    def _pause(self) -> float:
        """Seconds from one call to the next, where no job says its first words meanwhile."""
        with self._lock:
            hurry = any(speech.hurries for speech in self._speeches)
        left = self._all_at - time.monotonic()
        return min(self._flush_s, left) if hurry else left

    def _due_now(self) -> list[Speech]:
        """Whose text is told now. Where it is not everybody's, the loop comes back for the others."""
        now = time.monotonic()
        with self._lock:
            if now >= self._all_at:
                self._all_at = now + self._unwatched_s
                return list(self._speeches)
            due = [speech for speech in self._speeches if speech.hurries]
            if len(due) < len(self._speeches):
                self._due.set()
            return due

    def _tell(self) -> bool:
        """One call for all jobs whose time it is; False where it is to be made again, because nobody answered or something was
        lost."""
        speeches = self._due_now()
        untold = [(speech, said) for speech in speeches if (said := speech.untold())]
        if not untold:
            return True
        try:
            answers = self._store.progress(self._worker, [said for _, said in untold])
        except StoreUnavailableError as error:
            log.warning("streams stand still", reason=error.message)
            return False
        except Exception:
            log.exception("progress failed")
            return False
        whole = True
        for (speech, said), told in zip(untold, answers, strict=True):
            if told.count < 0:
                self.forget(speech)  # another attempt, or none, owns the job
            else:
                speech.told(told)
                whole = whole and told.count >= said.since
        return whole
