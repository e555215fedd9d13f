"""How long and how much the store keeps, taken from the settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from shared.settings import Settings


@dataclass(frozen=True, slots=True)
class Retention:
    """Seconds, turns, and events of a log. A ``cache_ttl_s`` of 0 turns the result cache off, ``history_max_turns`` of 0 history."""

    result_ttl_s: int = 86_400
    tombstone_ttl_s: int = 7 * 86_400
    cache_ttl_s: int = 3_600
    history_max_turns: int = 50
    history_ttl_s: int = 30 * 86_400
    worker_lease_s: float = 4.0
    events_ttl_s: int = 900
    events_max: int = 10_000

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(
            result_ttl_s=settings.result_ttl_s,
            tombstone_ttl_s=settings.tombstone_ttl_s,
            cache_ttl_s=settings.cache_ttl_s,
            history_max_turns=settings.history_max_turns,
            history_ttl_s=settings.history_ttl_s,
            worker_lease_s=settings.worker_lease_s,
            events_ttl_s=settings.events_ttl_s,
            events_max=settings.events_max,
        )
