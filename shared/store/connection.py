"""How every process of ours connects to Redis: bounded in time, so that a Redis which is away or hangs is an error
within seconds and never a request that hangs with it."""

from __future__ import annotations

import time
from typing import Any

import redis
import redis.asyncio
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from shared.errors import ConfigurationError, StoreUnavailableError
from shared.settings import Settings
from shared.store.scripts import guarded

Client = redis.Redis

START_PATIENCE_S = 10.0
"""How long a process that starts together with its Redis waits for it."""


def connect(settings: Settings, *, max_connections: int = 100, timeout_s: float | None = None) -> Client:
    """A client whose calls end within about three times ``timeout_s`` (default: the setting), answers as text.

    One quick retry covers a connection that died while idle; more would only make an outage slower to report (redis-py's
    default is ten). Every script of ours is safe to repeat.
    """
    timeout = timeout_s or settings.redis_timeout_s
    return redis.Redis.from_url(
        settings.redis_url,
        decode_responses=True,
        socket_timeout=timeout,
        socket_connect_timeout=min(timeout, 2.0),
        socket_keepalive=True,
        health_check_interval=30,
        max_connections=max_connections,
        retry=Retry(ExponentialBackoff(cap=0.1, base=0.02), 1),
    )


def connect_async(settings: Settings) -> redis.asyncio.Redis:
    """A client for an asyncio loop that listens on one connection; it never tries again by itself."""
    return redis.asyncio.Redis.from_url(
        settings.redis_url,
        decode_responses=True,
        protocol=2,  # published messages come as plain answers
        socket_connect_timeout=min(settings.redis_timeout_s, 2.0),
        socket_keepalive=True,
        max_connections=2,
    )


def require_server(client: Client, *, patience_s: float = START_PATIENCE_S) -> None:
    """Wait for the server, and see that it keeps what it is given.

    Raises, saying what to do: StoreUnavailableError (nobody answers within ``patience_s``), ConfigurationError (memory is
    bounded and the server would rather throw records away than refuse new ones).
    """
    memory = _memory_of(client, time.monotonic() + patience_s)
    policy = memory.get("maxmemory_policy", "noeviction")
    if int(memory.get("maxmemory", 0)) > 0 and policy != "noeviction":
        raise ConfigurationError(
            f"Redis at {_place(client)} evicts keys when its memory is full (maxmemory-policy {policy}): accepted jobs "
            "would vanish. Run `redis-cli CONFIG SET maxmemory-policy noeviction`, and set it in redis.conf too."
        )


def _memory_of(client: Client, deadline: float) -> dict[str, Any]:
    while True:
        try:
            return dict(guarded(lambda: client.info("memory")))
        except StoreUnavailableError as error:
            if time.monotonic() > deadline:
                message = f"No Redis answers at {_place(client)}: start one, or set REDIS_URL to where it is."
                raise StoreUnavailableError(message) from error
            time.sleep(0.2)


def _place(client: Client) -> str:
    """Where the server should be, without the password that its URL may hold."""
    where = client.connection_pool.connection_kwargs
    return str(where.get("path") or f"{where.get('host')}:{where.get('port')}")


def key_prefix(settings: Settings) -> str:
    """What all keys begin with. The braces are a hash tag: they keep a deployment in one slot."""
    return "{" + settings.redis_prefix + "}:"


def ended_channel(settings: Settings) -> str:
    """Pub/sub channel on which each end of a job is told, as ``tenant:id``."""
    return key_prefix(settings) + "ended"
