"""How large bodies may be, and how many large ones are held at a time.

A body of a batch may have 64 MiB, and takes up to ten times that while it is read (text of four bytes a character, and the
same again as prompts). So a process holds as many bytes of large bodies as two of the largest have, a key as many as one:
who sends many can only be in its own way.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping

from flask import Flask, g, request

from api.errors import LargeBodiesError
from api.identity import caller

KEYS = 2
"""That may send as much as they may at the same time."""


class LargeBodies:
    """Counts the bytes of large bodies. ``most``: of a key. ``large``: bytes from which on a body counts. Thread-safe."""

    def __init__(self, most: int, large: int) -> None:
        self._most = most
        self._large = large
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()

    def take(self, key_id: str, size: int) -> bool:
        """Room for a body of this key; whether it has to be given back. Raises: LargeBodiesError."""
        if size <= self._large:
            return False
        with self._lock:
            if self._held[key_id] + size > self._most or self._held.total() + size > KEYS * self._most:
                raise LargeBodiesError()
            self._held[key_id] += size
        return True

    def give_back(self, key_id: str, size: int) -> None:
        with self._lock:
            self._held[key_id] -= size
            if not self._held[key_id]:
                del self._held[key_id]


def bound_bodies(app: Flask, most_bytes: Mapping[str, int]) -> None:
    """Routes whose body may be larger or smaller than others' (endpoint → bytes). To be registered after the check of keys:
    nothing is held for who has none."""
    bodies = LargeBodies(max(most_bytes.values(), default=0), app.config["MAX_CONTENT_LENGTH"])

    def bound() -> None:
        most = most_bytes.get(request.endpoint or "")
        if most is None:
            return
        request.max_content_length = most
        told = request.content_length  # a chunked body does not tell
        size = most if told is None else min(told, most)
        if bodies.take(caller().id, size):
            g.large_body = (caller().id, size)

    def release(_error: BaseException | None) -> None:
        taken = g.pop("large_body", None)
        if taken is not None:
            bodies.give_back(*taken)

    app.before_request(bound)
    app.teardown_request(release)
