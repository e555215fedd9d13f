"""How large bodies may be, and how many large ones are held at a time.

A body of a batch may have 64 MiB, and takes up to ten times that while it is read (text of four bytes a character, and the
same again as prompts). So a process holds few of them, and one of a key: who sends many can only be in its own way.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from flask import Flask, g, request

from api.errors import LargeBodiesError
from api.identity import caller

AT_ONCE = 2
"""Bodies of the largest size that a process holds; of smaller ones, more."""


class LargeBodies:
    """Counts the bytes of large bodies. ``large``: bytes from which on a body counts. Thread-safe."""

    def __init__(self, most_bytes: int, large: int) -> None:
        self._most = most_bytes
        self._large = large
        self._lock = threading.Lock()
        self._held: dict[str, int] = {}

    def take(self, key_id: str, size: int) -> bool:
        """Room for a body of this key; whether it has to be given back. Raises: LargeBodiesError."""
        if size <= self._large:
            return False
        with self._lock:
            if key_id in self._held or sum(self._held.values()) + size > self._most:
                raise LargeBodiesError()
            self._held[key_id] = size
        return True

    def give_back(self, key_id: str) -> None:
        with self._lock:
            del self._held[key_id]


def bound_bodies(app: Flask, most_bytes: Mapping[str, int]) -> None:
    """Routes whose body may be larger or smaller than others' (endpoint → bytes). To be registered after the check of keys:
    nothing is held for who has none."""
    bodies = LargeBodies(AT_ONCE * max(most_bytes.values(), default=0), app.config["MAX_CONTENT_LENGTH"])

    def bound() -> None:
        most = most_bytes.get(request.endpoint or "")
        if most is None:
            return
        request.max_content_length = most
        told = request.content_length  # a chunked body does not tell
        if bodies.take(caller().id, most if told is None else min(told, most)):
            g.large_body_of = caller().id

    def release(_error: BaseException | None) -> None:
        key_id = g.pop("large_body_of", None)
        if key_id is not None:
            bodies.give_back(key_id)

    app.before_request(bound)
    app.teardown_request(release)
