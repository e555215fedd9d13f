"""The job store in memory, for tests (ours and users'): the same store, the same scripts, on a Redis that is a Python
object (the package fakeredis, with Lua). Nothing of the store's logic is written twice."""

from __future__ import annotations

import fakeredis

from shared.store.redis import RedisStore
from shared.store.retention import Retention


class MemoryStore(RedisStore):
    """A ``JobStore`` within one process. ``server``, ``client`` and ``prefix`` are for those who want to share it or look
    inside."""

    def __init__(self, retention: Retention | None = None, *, prefix: str = "{memory}:") -> None:
        self.prefix = prefix
        self.server = fakeredis.FakeServer(version=(7,))
        self.client = fakeredis.FakeRedis(server=self.server, decode_responses=True)
        super().__init__(self.client, prefix, retention, script_flags=False)  # it knows no ``#!lua`` line
