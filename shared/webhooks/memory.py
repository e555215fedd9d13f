"""Webhooks in memory, for tests: the same operations on the server in memory of a job store."""

from __future__ import annotations

from shared.store.memory import MemoryStore
from shared.webhooks.redis import Limits, RedisWebhookStore


class MemoryWebhookStore(RedisWebhookStore):
    """The ``WebhookStore`` beside a ``MemoryStore``."""

    def __init__(self, store: MemoryStore, limits: Limits | None = None) -> None:
        super().__init__(store.client, store.prefix, limits, script_flags=False)
