"""Waiting for the end of jobs: threads of requests wait here, and one thread a process hears from Redis who ended."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import redis
import structlog

from shared.job import JobRef

log = structlog.get_logger(__name__)

RECONNECT_S = 0.5
LISTEN_S = 1.0


class Expectation:
    """Jobs that one request waits for. Set when all have ended, or when the caller should look for itself."""

    def __init__(self, names: Sequence[str], *, admitted: bool) -> None:
        self._left = set(names)
        self._woken = threading.Event()
        self.admitted = admitted

    def wait(self, seconds: float) -> bool:
        """Wait; True where there is reason to look. Without a place in the room it returns at once."""
        if not self.admitted:
            return False
        woken = self._woken.wait(max(0.0, seconds))
        self._woken.clear()
        return woken

    def ended(self, name: str) -> None:
        self._left.discard(name)
        if not self._left:
            self._woken.set()

    def look(self) -> None:
        self._woken.set()


class WaitingRoom:
    """Who waits for what, within one process. ``places``: beyond so many a wait is answered at once, so that long polls
    cannot take all threads. Thread-safe."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._lock = threading.Lock()
        self._waiting: dict[str, set[Expectation]] = {}
        self._taken = 0
        self._draining = False
        self._changed: Callable[[int], None] = lambda _: None

    def watch(self, changed: Callable[[int], None]) -> None:
        """Call this with 1 for each place that is taken, and with -1 for each that gets free."""
        self._changed = changed

    @contextmanager
    def expect(self, refs: Sequence[JobRef], *, wanted: bool = True) -> Iterator[Expectation]:
        """Register before reading the jobs, so that no end falls between the two. ``wanted`` False takes no place."""
        names = [str(ref) for ref in refs]
        with self._lock:
            admitted = wanted and self._taken < self._places and not self._draining
            expectation = Expectation(names, admitted=admitted)
            if admitted:
                self._taken += 1
                for name in names:
                    self._waiting.setdefault(name, set()).add(expectation)
        if admitted:
            self._changed(1)
        try:
            yield expectation
        finally:
            if admitted:
                self._changed(-1)
                self._leave(names, expectation)

    def _leave(self, names: Sequence[str], expectation: Expectation) -> None:
        with self._lock:
            self._taken -= 1
            for name in names:
                others = self._waiting.get(name, set())
                others.discard(expectation)
                if not others:
                    self._waiting.pop(name, None)

    def tell(self, ref: JobRef) -> None:
        """A job ended."""
        self._tell(str(ref))

    def _tell(self, name: str) -> None:
        with self._lock:
            for expectation in self._waiting.get(name, ()):
                expectation.ended(name)

    def tell_all(self) -> None:
        """Ends may have been missed: everybody looks for themselves."""
        with self._lock:
            for expectations in self._waiting.values():
                for expectation in expectations:
                    expectation.look()

    def drain(self) -> None:
        """The process is to stop: waits are answered at once from now on."""
        with self._lock:
            self._draining = True
            for expectations in self._waiting.values():
                for expectation in expectations:
                    expectation.admitted = False
                    expectation.look()

    @property
    def taken(self) -> int:
        """Places in use."""
        return self._taken


class Listener:
    """Hears on Redis' channel of ended jobs and tells the room. Its connection is its own."""

    def __init__(self, client: redis.Redis, channel: str, room: WaitingRoom) -> None:
        self._client = client
        self._channel = channel
        self._room = room
        self._stopped = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="ended-listener", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._listen()
            except (redis.RedisError, OSError) as error:
                log.warning("no news of ended jobs", reason=type(error).__name__)
                self._stopped.wait(RECONNECT_S)

    def _listen(self) -> None:
        """Until the connection breaks. Redis-py reconnects a subscription by itself, and what is published meanwhile is
        lost; so its retries are off, and each new subscription makes everybody look."""
        with self._client.pubsub() as subscription:  # type: ignore[no-untyped-call]  # redis-py leaves it bare
            subscription.subscribe(self._channel)
            while not self._stopped.is_set():
                message = subscription.get_message(timeout=LISTEN_S)
                if message is None:
                    continue
                if message["type"] == "subscribe":
                    self._room.tell_all()
                elif message["type"] == "message":
                    self._room.tell(JobRef.parse(message["data"]))
