"""What Flower is told goes out together, late by no more than a moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from celery import Celery
from kombu.asynchronous import Hub

from worker.flower_events import GATHER_S, GatheredEvents


class House:
    """A consumer as the step sees it: a real event loop, and a real dispatcher on a broker in memory."""

    def __init__(self) -> None:
        self.hub = Hub()
        self._turns = self.hub.create_loop()
        app = Celery(broker="memory://")
        self.dispatcher = app.events.Dispatcher(app.connection_for_write(), buffer_group=["task"])
        self.told: list[tuple[str, list[str]]] = []
        self.dispatcher._publish = lambda events, _producer, key: self.told.append((key, [e["uuid"] for e in events]))
        self.consumer = SimpleNamespace(hub=self.hub, event_dispatcher=self.dispatcher)
        self.step = GatheredEvents(self.consumer)
        self.step.start(self.consumer)

    def turn(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self.hub.call_later(seconds, lambda: None)  # or the loop would wait for longer
        while time.monotonic() < until:
            next(self._turns)

    def tell(self, *names: str) -> None:
        for name in names:
            self.dispatcher.send("task-started", uuid=name)


@pytest.fixture
def house() -> Iterator[House]:
    house = House()
    yield house
    house.hub.close()


def test_events_go_out_together_and_later_ones_too(house: House):
    house.tell("a", "b")
    thread = threading.Thread(target=house.tell, args=("c",))
    thread.start()
    thread.join()
    house.turn(GATHER_S / 2)
    assert house.told == []
    house.turn(GATHER_S)
    house.tell("d")
    house.turn(1.5 * GATHER_S)
    assert house.told == [("task.multi", ["a", "b", "c"]), ("task.multi", ["d"])]


def test_the_last_ones_go_out_at_the_stop(house: House):
    house.tell("a")
    house.step.stop(house.consumer)
    house.step.stop(SimpleNamespace(event_dispatcher=None))
    assert house.told == [("task.multi", ["a"])]
