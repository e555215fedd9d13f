"""Batches as the store knows them: what is submitted, what is kept, and the operations of ``BatchStore``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from shared.errors import ForeignCursorError
from shared.job import Job, JobError, JobStatus, Result

if TYPE_CHECKING:  # protocol.py builds on this module
    from shared.store.protocol import Hint, Page, RateState, Submission

INLINE_JOBS = 500
"""A batch of up to so many jobs is shown with them."""


@dataclass(frozen=True, slots=True)
class NewBatch:
    """A batch to submit. ``id`` is unique within the tenant. hook_url: where its completion is told. hook_filter: the
    events to tell, space-separated."""

    id: str
    hook_url: str | None = None
    hook_filter: str | None = None


@dataclass(frozen=True, slots=True)
class BatchReceipt:
    """The answer to a submitted batch. ``hints`` are to be sent now. ``more``: steps are left to make (``step_batch``), so
    that all of it gets into line. created, replayed, response, rate, tokens: as in ``Receipt``."""

    id: str
    size: int
    created_at: int
    eta_ms: int
    created: bool = True
    replayed: bool = False
    response: str | None = None
    rate: RateState | None = None
    tokens: RateState | None = None
    hints: tuple[Hint, ...] = ()
    more: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch. ``size``: jobs that were submitted; ``total``: without those that were deleted since. ``counts``: jobs by
    status, which add up to ``total``. ``jobs``: in the order of the request, where they were asked for and are not too
    many. ``eta_ms``: until about all has ended."""

    id: str
    tenant: str
    created_at: int
    size: int
    total: int
    counts: Mapping[JobStatus, int]
    completed_at: int | None = None
    cancel_requested: bool = False
    eta_ms: int | None = None
    jobs: tuple[Job, ...] | None = None

    @property
    def done(self) -> bool:
        """Whether all of it has ended."""
        return self.completed_at is not None


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The end of one job of a batch. ``place`` grows in the order of ends; ``index`` is its place in the request."""

    place: int
    id: str
    index: int
    custom_id: str | None
    status: JobStatus
    finished_at: int
    result: Result
    error: JobError | None


@dataclass(frozen=True, slots=True)
class BatchResults:
    """A part of a page of results. ``last``: the place of the page's last one, which may be beyond ``rows``; where there is
    none, the place that was asked after."""

    batch: Batch
    rows: tuple[BatchResult, ...]
    last: int


_CURSOR = re.compile(r"(\d{1,15})\.([0-9a-f]{8})", re.ASCII)


def result_cursor(batch_id: str, place: int) -> str:
    """A cursor that goes on after a place, and can be told from another batch's."""
    return f"{place}.{hashlib.sha256(f'{batch_id}.{place}'.encode()).hexdigest()[:8]}"


def parse_result_cursor(batch_id: str, text: str | None) -> int:
    """The place; 0 without a cursor. Raises: ForeignCursorError."""
    if text is None:
        return 0
    match = _CURSOR.fullmatch(text)
    if match is None or result_cursor(batch_id, int(match[1])) != text:
        raise ForeignCursorError(param="cursor")
    return int(match[1])


class BatchStore(Protocol):
    """Operations on batches. What a batch of thousands needs is done in steps of some hundreds of jobs; whoever began says
    ``step_batch`` until nothing is left, and the reconciler goes on where nobody does."""

    def submit_batch(self, submission: Submission, batch: NewBatch) -> BatchReceipt:
        """Admit jobs as a batch, all or none; one round trip for each 500 jobs. Nobody sees any of them before the last.

        Raises: as ``JobStore.submit``. Where Redis goes away in the middle, the jobs are not accepted, and within about a
        minute nothing of them is left.
        """
        ...

    def step_batch(self, tenant: str, batch_id: str) -> tuple[bool, tuple[Hint, ...]]:
        """Make the next step of what was begun (getting into line, cancel, delete). Returns whether another is left, and
        the hints to send. Nothing to do, also for an unknown batch: ``(False, ())``."""
        ...

    def get_batch(self, tenant: str, batch_id: str, *, with_jobs: bool = False) -> Batch:
        """``with_jobs``: with its jobs too, if it has no more than ``INLINE_JOBS``. Raises: NotFoundError."""
        ...

    def list_batches(self, tenant: str, cursor: str | None, limit: int) -> Page[Batch]:
        """Newest first, without their jobs. Raises: InvalidCursorError."""
        ...

    def batch_results(self, tenant: str, batch_id: str, after: int, limit: int) -> BatchResults:
        """Ends in their order, after a place: the first records of a page of ``limit``. For the others ask again after the
        last one's place, until ``last``. A retry takes a job out; its next end is the newest.

        Raises: NotFoundError, ForeignCursorError (there was no such place).
        """
        ...

    def cancel_batch(self, tenant: str, batch_id: str) -> None:
        """From now on no job of it starts; steps bring them to their ends. Again: nothing more.

        Raises: NotFoundError, BatchAlreadyFinishedError (it completed without being canceled).
        """
        ...

    def delete_batch(self, tenant: str, batch_id: str) -> None:
        """From now on there is no such batch; steps remove its jobs, and stop those that run. Raises: NotFoundError."""
        ...
