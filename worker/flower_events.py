"""What Flower is told of tasks, gathered: Celery tells of each at once, on the thread that fetches hints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import bootsteps

GATHER_S = 0.5
MOST_EVENTS = 1_000
"""Told at once where so many wait."""


class GatheredEvents(bootsteps.StartStopStep):
    """A step of the consumer: its task events go out together, every ``GATHER_S`` seconds at most, and at its stop."""

    requires = ("celery.worker.consumer.events:Events",)

    def start(self, parent: Any) -> None:
        dispatcher = parent.event_dispatcher
        dispatcher.buffer_limit = MOST_EVENTS
        dispatcher.on_send_buffered = Later(parent.hub, dispatcher.flush)

    def stop(self, parent: Any) -> None:
        if parent.event_dispatcher:
            parent.event_dispatcher.flush()


class Later:
    """Asked any number of times, from any thread: acts once, on the hub's thread, ``GATHER_S`` seconds after the first."""

    def __init__(self, hub: Any, act: Callable[[], object]) -> None:
        self._hub = hub
        self._act = act
        self._asked = False

    def __call__(self) -> None:
        if not self._asked:
            self._asked = True
            self._hub.call_soon(self._hub.call_later, GATHER_S, self._now)

    def _now(self) -> None:
        self._asked = False  # first, so that who asks meanwhile is heard
        self._act()
