"""Hears what the store's scripts publish: one connection to Redis for all the channels that the open streams need."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import redis
import structlog
from redis.asyncio import Connection, Redis

log = structlog.get_logger(__name__)

RECONNECT_S = 0.3
PULSE_S = 5.0
"""A connection that is silent for so long is asked whether it lives, and given up when it says nothing for as long again."""


class News:
    """Subscriptions. ``heard(channel, message)`` and ``joined(channel)`` are called on the loop's thread; between a join and
    the one before it messages may have been missed.

    The connection is used as such: redis-py's own subscriber reconnects by itself wherever it is used, and takes twice the
    time for a message.
    """

    def __init__(self, client: Redis, heard: Callable[[str, str], None], joined: Callable[[str], None]) -> None:
        self._client = client
        self._heard = heard
        self._joined = joined
        self._channels: set[str] = set()
        self._connection: Connection | None = None
        self._sending = asyncio.Lock()

    async def run(self) -> None:
        """Until canceled. Without Redis it tries again."""
        while True:
            try:
                await self._listen()
            except (redis.RedisError, OSError) as error:
                log.warning("no news for streams", reason=type(error).__name__)
            await asyncio.sleep(RECONNECT_S)

    async def follow(self, channel: str) -> None:
        """Hear of a channel from now on."""
        self._channels.add(channel)
        await self._send("SUBSCRIBE", channel)

    async def leave(self, channel: str) -> None:
        """The opposite."""
        self._channels.discard(channel)
        await self._send("UNSUBSCRIBE", channel)

    async def _send(self, *command: str) -> None:
        async with self._sending:
            if self._connection is None:
                return  # the next connection subscribes to all
            try:
                await self._connection.send_command(*command)
            except (redis.RedisError, OSError):
                await self._connection.disconnect(nowait=True)  # who listens notices it

    async def _listen(self) -> None:
        connection: Connection = await self._client.connection_pool.get_connection()  # type: ignore[no-untyped-call]  # redis-py leaves it bare
        try:
            async with self._sending:
                if self._channels:
                    await connection.send_command("SUBSCRIBE", *self._channels)
                self._connection = connection
            await self._read(connection)
        finally:
            self._connection = None
            await connection.disconnect(nowait=True)
            await self._client.connection_pool.release(connection)

    async def _read(self, connection: Connection) -> None:
        asked = False
        while True:
            answer = await connection.read_response(timeout=PULSE_S)
            if answer is None:
                if asked:
                    raise redis.TimeoutError("no answer to a ping")
                asked = True
                await self._send("PING")
                continue
            asked = False
            match answer:
                case ["message", channel, message]:
                    self._heard(channel, message)
                case ["subscribe", channel, _]:
                    self._joined(channel)
