"""Telling workers that there is work: the API's side of the queue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import structlog
from celery import Celery

from shared.errors import StoreUnavailableError
from shared.queue import send_hints
from shared.store.protocol import Hint

log = structlog.get_logger(__name__)


class Hints(Protocol):
    """Sends hints."""

    def send(self, hints: Sequence[Hint]) -> None:
        """Raises nothing: a hint that does not go out is found by the reconciler, and sent within seconds."""
        ...


class CeleryHints:
    """Sends hints over Celery."""

    def __init__(self, celery: Celery, prefix: str) -> None:
        self._celery = celery
        self._prefix = prefix

    def send(self, hints: Sequence[Hint]) -> None:
        try:
            send_hints(self._celery, hints, prefix=self._prefix)
        except StoreUnavailableError as error:  # the jobs are taken in all the same
            log.warning("hints not sent", count=len(hints), reason=type(error.__cause__).__name__)


class RecordedHints:
    """Keeps hints, for tests."""

    def __init__(self) -> None:
        self.sent: list[Hint] = []

    def send(self, hints: Sequence[Hint]) -> None:
        self.sent.extend(hints)
