"""Telling workers that there is work: the API's side of the queue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from celery import Celery

from shared.queue import offer_hints
from shared.store.protocol import Hint


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
        offer_hints(self._celery, hints, prefix=self._prefix)


class RecordedHints:
    """Keeps hints, for tests."""

    def __init__(self) -> None:
        self.sent: list[Hint] = []

    def send(self, hints: Sequence[Hint]) -> None:
        self.sent.extend(hints)
