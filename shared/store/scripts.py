"""Loads the Lua scripts: each operation's file behind the common prelude."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from typing import Any

import redis

from shared.errors import StoreUnavailableError

OPERATIONS = (
    "submit", "complete", "get", "list", "cancel", "delete", "batch", "forget",
    "claim", "finish", "release", "beat", "depart", "fleet",
)  # fmt: skip


def source(operation: str) -> str:
    """The whole text of an operation's script. A ``#!lua`` line has to stay the first one."""
    folder = resources.files("shared.store") / "lua"
    prelude = (folder / "prelude.lua").read_text()
    body = (folder / f"{operation}.lua").read_text()
    if body.startswith("#!"):
        shebang, body = body.split("\n", 1)
        return f"{shebang}\n{prelude}\n{body}"
    return f"{prelude}\n{body}"


class Scripts:
    """The operations as callables of ``(*ARGV)`` on one server, under one key prefix."""

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        self._prefix = prefix
        self._scripts = {name: client.register_script(source(name)) for name in OPERATIONS}

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
