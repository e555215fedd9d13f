"""What a part of the stack is: how to start it, when it is ready, and how to end it. Plain data."""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


class Kind(enum.StrEnum):
    """The kinds of parts, under the names that the ready file uses."""

    REDIS = "redis"
    WORKER = "worker"
    COURIER = "courier"
    API = "api"
    FLOWER = "flower"


# The order of the end: nothing new comes in, workers hand back or finish what they have, the courier tells of it,
# the store is saved last.
STOP_RANK: Mapping[Kind, int] = {Kind.API: 0, Kind.WORKER: 1, Kind.COURIER: 2, Kind.FLOWER: 3, Kind.REDIS: 4}


class PartState(enum.StrEnum):
    """Where a part is in its life."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Command:
    """One process to start: ``env`` is added to the launcher's own, ``pass_fds`` stay open in it."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    pass_fds: tuple[int, ...] = ()
    cwd: Path | None = None


@dataclass(frozen=True)
class PartSpec:
    """A part of the stack.

    ``command`` is asked again at each start, so that a part which never got ready can be given another port.
    ``is_ready`` may block for a second or two; it is called in a thread until it says yes.
    ``needs`` are the kinds that must be ready before this part is started. ``lingers_s``: for so many seconds after a
    crash of a part that was ready, ``is_ready`` may still be about the process that died, so it is not asked.
    """

    name: str
    kind: Kind
    command: Callable[[], Command]
    is_ready: Callable[[], bool]
    needs: tuple[Kind, ...] = ()
    start_timeout_s: float = 120.0
    stop_grace_s: float = 10.0
    lingers_s: float = 0.0


@dataclass(frozen=True)
class Event:
    """Something that happened to a part, for the display: ``last_lines`` of its log where it went wrong."""

    part: str
    state: PartState
    detail: str = ""
    last_lines: tuple[str, ...] = ()


# sysexits.h: a part that ends so before it was ever ready will end so again, and its start may take a minute.
HOPELESS_EXITS = {os.EX_UNAVAILABLE: "the model cannot be loaded", os.EX_CONFIG: "a setting is wrong"}


@dataclass(frozen=True)
class Patience:
    """How often a part may crash before the stack gives up, and how long a restart waits."""

    crashes_before_ready: int = 3
    crashes_in_window: int = 5
    window_s: float = 60.0
    first_delay_s: float = 0.5
    longest_delay_s: float = 10.0

    def delay_s(self, crashes: int) -> float:
        """Seconds to wait before the restart that follows crash number ``crashes`` (from 1)."""
        return min(self.longest_delay_s, self.first_delay_s * 2.0 ** min(crashes - 1, 16))
