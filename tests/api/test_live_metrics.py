"""Metrics of a real server with two processes."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from api.gunicorn_hooks import FOLDER
from tests.api.live import LiveApi
from tests.api.test_metrics import samples
from tests.servers import RedisServer, until

GET_MODES = frozenset({"handler": "/api/modes", "method": "GET", "status": "200"}.items())


def folder_of(api: LiveApi) -> Path:
    """Where its processes count."""
    return Path(psutil.Process(api.process.process.pid).environ()[FOLDER])


def counting(api: LiveApi) -> list[Path]:
    """The files of processes that have answered such a request."""
    return [path for path in folder_of(api).glob("counter_*.db") if b"/api/modes" in path.read_bytes()]


def test_counts_of_all_processes_are_told_by_each_and_outlive_them(redis_url: str, tmp_path: Path):
    with LiveApi(redis_url, f"t{secrets.token_hex(4)}", tmp_path, API_WORKERS="2") as api:
        until(lambda: len(api.workers()) == 2)
        asked = 0
        while asked < 1000 and len(counting(api)) < 2:
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(lambda _: api.call("GET", "/api/modes"), range(20)))
            asked += 20
        assert {told(api) for _ in range(10)} == {asked}
        api.workers()[0].kill()
        until(lambda: not list(folder_of(api).glob("gauge_livesum_*.db")) or len(api.workers()) == 2)
        assert told(api) == asked
        folder = folder_of(api)
        assert api.stop() == 0
        assert not folder.exists()


def told(api: LiveApi) -> float:
    return samples(api.call("GET", "/metrics").body.decode())["http_requests_total", GET_MODES]


def test_redis_away(own_redis: RedisServer, tmp_path: Path):
    with LiveApi(own_redis.url, "t", tmp_path) as api:
        up = "textgen_redis_up", frozenset()
        assert samples(api.call("GET", "/metrics").body.decode())[up] == 1
        own_redis.kill()
        until(lambda: samples(api.call("GET", "/metrics").body.decode())[up] == 0, 15)
        own_redis.start()
        until(lambda: samples(api.call("GET", "/metrics").body.decode())[up] == 1, 15)
