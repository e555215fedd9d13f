"""What metrics want of the store: counts that it keeps anyway, in one answer."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class EtaErrors:
    """How far off the ETAs of jobs that started were. ``within``: (upper bound in seconds, jobs off by that at most), by
    rising bounds, each count holding the ones before; ``count`` holds them all."""

    within: tuple[tuple[float, int], ...]
    count: int
    sum_s: float


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """A model's queue. ``lines``: jobs in lines by priority; ``window``: those that are on their way to a worker.
    ``oldest_s``: how long the oldest waiting job has waited; 0 where none waits."""

    window: int
    lines: dict[str, int]
    running: int
    slots: int
    paused: bool
    oldest_s: float
    eta_errors: EtaErrors

    @property
    def waiting(self) -> int:
        """All jobs that wait."""
        return self.window + sum(self.lines.values())


@dataclass(frozen=True, slots=True)
class TenantFigures:
    """A tenant: its jobs in lines, and what its jobs used since midnight (UTC): ``jobs``, ``prompt_tokens``,
    ``completion_tokens``."""

    waiting: int
    used: dict[str, int]


@dataclass(frozen=True, slots=True)
class WebhookFigures:
    """outbox: messages that no courier has taken up. due: receivers with a delivery that should have been attempted by now.
    oldest_s: for how long the oldest of both has been waiting for a courier. couriers: those that are there."""

    outbox: int
    due: int
    oldest_s: float
    couriers: int


@dataclass(frozen=True, slots=True)
class Figures:
    """ended: jobs by status, ever. events: ``requeued`` (jobs that lost their worker), ``resent`` (hints), ``leases_expired``,
    ever. workers: (model, state) → live workers."""

    ended: dict[str, int]
    events: dict[str, int]
    dead_letters: int
    queues: dict[str, QueueFigures]
    workers: dict[tuple[str, str], int]
    webhooks: WebhookFigures
    tenants: dict[str, TenantFigures] = field(default_factory=dict)


def parse(text: str) -> Figures:
    """From the answer of the script. An empty table is a list to some Lua and an object to other: hence ``dict``."""
    data: dict[str, Any] = json.loads(text)
    return Figures(
        ended=_whole(data["ended"]),
        events=_whole(data["events"]),
        dead_letters=int(data["dead_letters"]),
        queues={model: _queue(queue, data["now"]) for model, queue in dict(data["queues"]).items()},
        workers=dict(Counter((model, state) for model, state in data["workers"])),
        webhooks=_webhooks(data["webhooks"], data["now"]),
        tenants={
            name: TenantFigures(int(tenant["waiting"]), _whole(tenant["used"]))
            for name, tenant in dict(data["tenants"]).items()
        },
    )


def _webhooks(data: dict[str, Any], now_ms: float) -> WebhookFigures:
    oldest_s = max(0.0, (now_ms - data["oldest_at"]) / 1000)
    return WebhookFigures(int(data["outbox"]), int(data["due"]), oldest_s, int(data["couriers"]))


def _whole(counts: dict[str, float]) -> dict[str, int]:
    return {name: int(count) for name, count in counts.items()}


def _queue(data: dict[str, Any], now_ms: float) -> QueueFigures:
    within, so_far = [], 0
    for bound_ms, count in data["eta"]:
        so_far += int(count)
        within.append((bound_ms / 1000, so_far))
    return QueueFigures(
        window=int(data["window"]),
        lines=_whole(data["lines"]),
        running=int(data["running"]),
        slots=int(data["slots"]),
        paused=bool(data["paused"]),
        oldest_s=max(0.0, (now_ms - data["oldest_at"]) / 1000) if "oldest_at" in data else 0.0,
        eta_errors=EtaErrors(tuple(within), int(data["eta_count"]), data["eta_sum_ms"] / 1000),
    )
