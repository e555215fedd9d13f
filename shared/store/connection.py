"""How every process of ours connects to Redis: bounded in time, so that a Redis which is away or hangs is an error
within seconds and never a request that hangs with it."""

from __future__ import annotations

import time
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.connection
import redis.sentinel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialBackoff, NoBackoff
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
    default is ten). Every script of ours is safe to repeat. Through sentinels each new connection asks them who is master.
    """
    timeout = timeout_s or settings.redis_timeout_s
    options: dict[str, Any] = {
        "decode_responses": True,
        "socket_timeout": timeout,
        "socket_connect_timeout": min(timeout, 2.0),
        "socket_keepalive": True,
        "health_check_interval": 30,
        "max_connections": max_connections,
        "retry": Retry(ExponentialBackoff(cap=0.1, base=0.02), 1),
    }
    if not settings.redis_sentinels:
        return redis.Redis.from_url(settings.redis_url, **options)
    sentinel = redis.sentinel.Sentinel(  # type: ignore[no-untyped-call]  # redis-py leaves it bare
        settings.sentinel_addresses, sentinel_kwargs={**sentinel_options(settings), "retry": Retry(NoBackoff(), 0)}
    )
    identity = _identity(settings)
    master: Client = sentinel.master_for(settings.redis_sentinel_master, **identity, **options)  # type: ignore[no-untyped-call]  # bare too
    return master


def connect_async(settings: Settings) -> redis.asyncio.Redis:
    """A client for an asyncio loop that listens on one connection; it never tries again by itself."""
    options: dict[str, Any] = {
        "decode_responses": True,
        "protocol": 2,  # published messages come as plain answers
        "socket_connect_timeout": min(settings.redis_timeout_s, 2.0),
        "socket_keepalive": True,
        "max_connections": 2,
    }
    if not settings.redis_sentinels:
        return redis.asyncio.Redis.from_url(settings.redis_url, **options)
    sentinel = redis.asyncio.sentinel.Sentinel(  # type: ignore[no-untyped-call]  # bare too
        settings.sentinel_addresses, sentinel_kwargs={**sentinel_options(settings), "retry": AsyncRetry(NoBackoff(), 0)}
    )
    master: redis.asyncio.Redis = sentinel.master_for(settings.redis_sentinel_master, **_identity(settings), **options)
    return master


def sentinel_options(settings: Settings) -> dict[str, Any]:
    """How to talk to a sentinel: one that is away costs its time at each new connection, so there is little of it."""
    return {"socket_timeout": 1.0, "socket_connect_timeout": 0.5, "password": settings.redis_sentinel_password}


def _identity(settings: Settings) -> dict[str, Any]:
    """Who we are to the server: what REDIS_URL says beside the place."""
    url = redis.connection.parse_url(settings.redis_url)  # type: ignore[no-untyped-call]  # bare too
    return {name: url[name] for name in ("username", "password", "db") if name in url}


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
                message = f"No Redis answers at {_place(client)}: start one, or set REDIS_URL (or REDIS_SENTINELS) to where it is."
                raise StoreUnavailableError(message) from error
            time.sleep(0.2)


def _place(client: Client) -> str:
    """Where the server should be, without the password that its URL may hold."""
    pool = client.connection_pool
    if isinstance(pool, redis.sentinel.SentinelConnectionPool):
        return f"the master {pool.service_name} of the sentinels"
    where = pool.connection_kwargs
    return str(where.get("path") or f"{where.get('host')}:{where.get('port')}")


def key_prefix(settings: Settings) -> str:
    """What all keys begin with. The braces are a hash tag: they keep a deployment in one slot."""
    return "{" + settings.redis_prefix + "}:"


def ended_channel(settings: Settings) -> str:
    """Pub/sub channel on which each end of a job is told, as ``tenant:id``."""
    return key_prefix(settings) + "ended"
