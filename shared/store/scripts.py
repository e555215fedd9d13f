"""Loads the Lua scripts: each operation's file behind the common prelude."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Self

import redis

from shared.errors import StoreUnavailableError
from shared.settings import Settings

OPERATIONS = (
    "submit", "complete", "get", "list", "cancel", "delete", "forget",
    "batch_admit", "batch_step", "batch", "batch_list", "batch_results", "batch_cancel", "batch_delete",
    "claim", "progress", "finish", "release", "retry", "beat", "depart", "reconcile", "fleet", "queue", "dead", "drain",
    "sweep", "log", "latest", "figures",
)  # fmt: skip
LIBRARY = (
    "prelude", "events", "outbox", "batches", "scheduler", "admission", "ending", "stopping", "requeue", "batch_steps",
    "fleet_slots",
)  # fmt: skip
"""Functions that the operations share, in the order in which they build on each other."""


WAITED = frozenset(
    {"submit", "batch_admit", "finish", "cancel", "retry", "delete", "batch_cancel", "batch_delete"}
)  # fmt: skip
"""What is acknowledged to somebody: it has to survive the server."""


@dataclass(frozen=True, slots=True)
class Durability:
    """How many replicas must have an operation of ``WAITED`` before it counts, and how long they get."""

    replicas: int = 0
    timeout_ms: int = 1_000

    @classmethod
    def of(cls, settings: Settings) -> Durability:
        """Half the time of a call, so that the answer says what was missing."""
        return cls(settings.redis_wait_replicas, max(1, int(settings.redis_timeout_s * 500)))


NO_WAIT = Durability()


@dataclass(frozen=True, slots=True)
class Shelf:
    """Where operations lie: ``lua/`` of a package, each in a file of its own. ``library``: functions that they share, on top
    of the store's own."""

    package: str
    operations: Sequence[str]
    library: Sequence[str] = ()


STORE = Shelf("shared.store", OPERATIONS)


@dataclass(frozen=True, slots=True)
class Script:
    """An operation's script. Its text is put together when a server asks for it: all of them whole are 4 MB in each process, for
    the library is in every one."""

    head: str
    library: str
    body: str
    sha: str

    @classmethod
    def of(cls, library: str, text: str, *, flags: bool) -> Self:
        """A ``#!lua`` line has to stay the first one; without ``flags`` it is left out, for servers before Redis 7."""
        head, body = "", text
        if text.startswith("#!"):
            head, body = text.split("\n", 1)
        parts = (f"{head}\n" if head and flags else "", library, body)
        return cls(*parts, hashlib.sha1("".join(parts).encode(), usedforsecurity=False).hexdigest())

    @property
    def text(self) -> str:
        return f"{self.head}{self.library}{self.body}"


def library_of(shelf: Shelf) -> str:
    """What comes before every operation of a shelf."""
    store, folder = resources.files(STORE.package) / "lua", resources.files(shelf.package) / "lua"
    parts = [*(store / f"{part}.lua" for part in LIBRARY), *(folder / f"{part}.lua" for part in shelf.library)]
    return "".join(f"{part.read_text()}\n" for part in parts)


def scripts_of(shelf: Shelf = STORE, *, flags: bool = True) -> dict[str, Script]:
    """The scripts of a shelf by operation."""
    folder, library = resources.files(shelf.package) / "lua", library_of(shelf)
    return {name: Script.of(library, (folder / f"{name}.lua").read_text(), flags=flags) for name in shelf.operations}


class Scripts:
    """The operations as callables of ``(*ARGV)`` on one server, under one key prefix."""

    def __init__(
        self,
        client: redis.Redis,
        prefix: str,
        shelf: Shelf = STORE,
        *,
        flags: bool = True,
        durability: Durability = NO_WAIT,
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._durability = durability
        self._scripts = scripts_of(shelf, flags=flags)

    def run(self, operation: str, *args: str | int) -> Any:
        """The script's answer. Raises: StoreUnavailableError; of an operation in ``WAITED`` also where too few replicas have
        it in time, and then it may be lost or not, as after any answer that did not come."""
        script = self._scripts[operation]
        if self._durability.replicas and operation in WAITED:
            return guarded(lambda: self._run_and_wait(script, args))
        return guarded(lambda: self._run(script, args))

    def _run(self, script: Script, args: Sequence[str | int]) -> Any:
        try:
            return self._client.evalsha(script.sha, 1, self._prefix, *args)
        except redis.exceptions.NoScriptError:  # a server that has just started
            self._client.script_load(script.text)
            return self._client.evalsha(script.sha, 1, self._prefix, *args)

    def _run_and_wait(self, script: Script, args: Sequence[str | int]) -> Any:
        """One round trip for both. A repeated operation that changes nothing waits too: for all that came before it."""
        pipeline = self._client.pipeline(transaction=False)
        pipeline.evalsha(script.sha, 1, self._prefix, *args)
        pipeline.wait(self._durability.replicas, self._durability.timeout_ms)
        answer, reached = pipeline.execute(raise_on_error=False)
        if isinstance(answer, redis.exceptions.NoScriptError):  # as on a replica that has just become master
            self._client.script_load(script.text)
            return self._run_and_wait(script, args)
        for result in (answer, reached):
            if isinstance(result, Exception):
                raise result
        if reached < self._durability.replicas:
            raise StoreUnavailableError("Too few replicas of Redis have it yet.")
        return answer


TAKES_NO_WRITES = frozenset({"OOM", "READONLY", "MISCONF", "LOADING", "MASTERDOWN", "NOREPLICAS", "CLUSTERDOWN"})
"""Codes of Redis' answers that say so: at present, or here."""


def guarded(call: Callable[[], Any]) -> Any:
    """Do something with Redis; whatever says that it is away becomes StoreUnavailableError.

    A server that is loading its data, out of memory or read-only is as good as away for the caller: nothing was done.
    """
    try:
        return call()
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise StoreUnavailableError("Redis does not answer.") from error
    except redis.ResponseError as error:
        # redis-py takes the code off the text of those that it has a class for.
        code = getattr(error, "status_code", None) or str(error).partition(" ")[0]
        if code in TAKES_NO_WRITES:
            raise StoreUnavailableError("Redis takes no writes at present.") from error
        raise
