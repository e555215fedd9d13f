"""Loads the Lua scripts: each operation's file behind the common prelude."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from typing import Any

import redis

from shared.errors import StoreUnavailableError

OPERATIONS = (
    "submit", "complete", "get", "list", "cancel", "delete", "batch", "forget",
    "claim", "finish", "release", "retry", "beat", "depart", "reconcile", "fleet", "queue", "dead", "drain",
    "figures",
)  # fmt: skip
LIBRARY = ("prelude", "events", "outbox", "batches", "scheduler", "ending", "requeue", "fleet_slots")
"""Functions that the operations share, in the order in which they build on each other."""


def source(operation: str, *, flags: bool = True) -> str:
    """The whole text of an operation's script. A ``#!lua`` line has to stay the first one; without ``flags`` it is left
    out, for servers before Redis 7."""
    folder = resources.files("shared.store") / "lua"
    library = "\n".join((folder / f"{part}.lua").read_text() for part in LIBRARY)
    body = (folder / f"{operation}.lua").read_text()
    if body.startswith("#!"):
        shebang, body = body.split("\n", 1)
        return f"{shebang}\n{library}\n{body}" if flags else f"{library}\n{body}"
    return f"{library}\n{body}"


class Scripts:
    """The operations as callables of ``(*ARGV)`` on one server, under one key prefix."""

    def __init__(self, client: redis.Redis, prefix: str, *, flags: bool = True) -> None:
        self._prefix = prefix
        self._scripts = {name: client.register_script(source(name, flags=flags)) for name in OPERATIONS}

    def run(self, operation: str, *args: str | int) -> Any:
        """The script's answer. Raises: StoreUnavailableError."""
        return guarded(lambda: self._scripts[operation](keys=[self._prefix], args=list(args)))


def guarded(call: Callable[[], Any]) -> Any:
    """Do something with Redis; whatever says that it is away becomes StoreUnavailableError.

    A server that is loading its data, out of memory or read-only is as good as away for the caller: nothing was done.
    """
    try:
        return call()
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise StoreUnavailableError("Redis does not answer.") from error
    except redis.ResponseError as error:
        if str(error).startswith(("OOM", "READONLY", "MISCONF", "LOADING", "MASTERDOWN", "NOREPLICAS", "CLUSTERDOWN")):
            raise StoreUnavailableError("Redis takes no writes at present.") from error
        raise
