"""How many streams may be open: for a key, and in the process."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

from shared.errors import StreamLimitError, StreamsFullError

RETRY_S = 5


class Place:
    """One open stream's. To be given back once; again does nothing."""

    def __init__(self, places: Places, key_id: str) -> None:
        self._places = places
        self._key_id = key_id

    def give_back(self) -> None:
        places, self._places = self._places, _NOWHERE
        places.take_back(self._key_id)


class Places:
    """Counts open streams. Thread-safe."""

    def __init__(self, most: int, most_per_key: int) -> None:
        self._most = most
        self._most_per_key = most_per_key
        self._lock = threading.Lock()
        self._taken: Counter[str] = Counter()
        self._changed: Callable[[int], None] = lambda _: None

    def watch(self, changed: Callable[[int], None]) -> None:
        """Call this with 1 for each place that is taken, and with -1 for each that is given back."""
        self._changed = changed

    def take(self, key_id: str) -> Place:
        """Raises: StreamLimitError, StreamsFullError."""
        with self._lock:
            if self._taken[key_id] >= self._most_per_key:
                message = f"This key may have {self._most_per_key} streams open."
                raise StreamLimitError(message, retry_after_s=RETRY_S)
            if self._taken.total() >= self._most:
                raise StreamsFullError
            self._taken[key_id] += 1
        self._changed(1)
        return Place(self, key_id)

    def take_back(self, key_id: str) -> None:
        with self._lock:
            self._taken[key_id] -= 1
            if self._taken[key_id] <= 0:
                del self._taken[key_id]
        self._changed(-1)

    @property
    def taken(self) -> int:
        """Streams open now."""
        return self._taken.total()


_NOWHERE = Places(0, 0)
