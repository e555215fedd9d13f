"""How every process of ours connects to Redis: bounded in time, so that a Redis which is away or hangs is an error
within seconds and never a request that hangs with it."""

from __future__ import annotations

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from shared.settings import Settings

Client = redis.Redis


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


def key_prefix(settings: Settings) -> str:
    """What all keys begin with. The braces are a hash tag: they keep a deployment in one slot."""
    return "{" + settings.redis_prefix + "}:"


def ended_channel(settings: Settings) -> str:
    """Pub/sub channel on which each end of a job is told, as ``tenant:id``."""
    return key_prefix(settings) + "ended"
