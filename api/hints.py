"""Telling workers that there is work: the API's side of the queue."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Protocol

import structlog
from celery import Celery

from shared.errors import StoreUnavailableError, UnavailableError
from shared.job import JobRef, JobSpec
from shared.queue import send_hint

log = structlog.get_logger(__name__)

Hinted = tuple[JobRef, JobSpec]


class Hints(Protocol):
    """Sends hints."""

    def send(self, jobs: Sequence[Hinted], request_id: str) -> None:
        """Raises: UnavailableError; some of the hints may have gone out."""
        ...


class CeleryHints:
    """Sends hints over Celery."""

    def __init__(self, celery: Celery, prefix: str) -> None:
        self._celery = celery
        self._prefix = prefix

    def send(self, jobs: Sequence[Hinted], request_id: str) -> None:
        for (model, priority), group in groupby(jobs, key=lambda job: (job[1].model, job[1].priority)):
            refs = [ref for ref, _ in group]
            try:
                send_hint(
                    self._celery, refs, prefix=self._prefix, model=model, priority=priority, request_id=request_id
                )
            except UnavailableError:
                raise
            except Exception as error:  # kombu and its transports raise much; whatever it is, the hint did not go out
                log.warning("hint not sent", reason=type(error).__name__)
                raise StoreUnavailableError("The queue does not answer.") from error


class RecordedHints:
    """Keeps hints, for tests. ``fails`` makes the next ones fail."""

    def __init__(self) -> None:
        self.sent: list[Hinted] = []
        self.fails = False

    def send(self, jobs: Sequence[Hinted], request_id: str) -> None:  # noqa: ARG002  # the protocol's
        if self.fails:
            raise StoreUnavailableError("The queue does not answer.")
        self.sent.extend(jobs)
