"""Webhook stores beside job stores, receivers on loopback, and real courier processes."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.job import JobRef
from shared.settings import load_settings
from shared.store.memory import MemoryStore
from shared.store.redis import RedisStore
from shared.webhooks import Attempt, Delivery, Errand, NewEndpoint, RedisWebhookStore, Verdict
from shared.webhooks.memory import MemoryWebhookStore
from shared.webhooks.redis import Limits
from tests.servers import Process, until
from tests.store.conftest import RETENTION, Driver, success
from tests.webhooks.receiver import Receiver
from worker.courier.__main__ import build
from worker.courier.payload import render

ENDS = ("job.succeeded", "job.failed", "job.canceled", "job.expired")
LIMITS = Limits(endpoints=3)
URL = "https://hooks.example.com/in"


class Post:
    """A job store and the webhook store beside it, and a courier's hand on them."""

    def __init__(self, jobs: RedisStore, hooks: RedisWebhookStore) -> None:
        self.jobs, self.hooks = jobs, hooks
        self.drive = Driver(jobs)

    def endpoint(self, *events: str, url: str = URL, tenant: str = "shop") -> str:
        return self.hooks.create(tenant, NewEndpoint(url, events or ENDS)).id

    def job(self, url: str | None = URL, events: tuple[str, ...] = ENDS, **more) -> JobRef:
        """A finished job with a webhook of its own."""
        return self.drive.finished(webhook=url, webhook_events_filter=events if url else (), **more)

    def take(self, room: int = 100, courier: str = "c1", **lanes: int) -> tuple[Errand, ...]:
        return self.hooks.take(courier, room, lanes).errands

    def body(self, errand: Errand) -> dict:
        """What it says, kept as a courier keeps it."""
        text = errand.message.payload or self.hooks.keep(errand, render(errand.message))
        assert text is not None
        return json.loads(text)

    def say(self, errand: Errand, verdict: Verdict = Verdict.DELIVERED, **more) -> bool:
        return self.hooks.report(errand, Attempt(verdict, **more))

    def log(self, endpoint_id: str = "default", tenant: str = "shop") -> tuple[Delivery, ...]:
        return self.hooks.deliveries(tenant, endpoint_id, None, None, 100).data

    def lapse(self) -> None:
        """As if the leases of all that was taken were over."""
        client, prefix = self.jobs._client, self.jobs._prefix
        for lane in client.zrange(f"{prefix}lanes", 0, -1):
            for member in client.zrange(f"{prefix}lane:{lane}", 0, -1):
                client.zadd(f"{prefix}lane:{lane}", {member: 0})
            client.zadd(f"{prefix}lanes", {lane: 0})

    def kept(self) -> list[str]:
        return list(self.jobs._client.scan_iter(match=f"{self.jobs._prefix}*"))

    def status(self, ref: JobRef) -> str | None:
        return self.jobs.get(ref).webhook_status


@pytest.fixture(params=["memory", "redis"])
def post(request: pytest.FixtureRequest) -> Post:
    if request.param == "memory":
        memory = MemoryStore(RETENTION)
        return Post(memory, MemoryWebhookStore(memory, LIMITS))
    client, settings = request.getfixturevalue("redis_client"), request.getfixturevalue("settings")
    prefix = "{" + settings.redis_prefix + "}:"
    return Post(RedisStore(client, prefix, RETENTION), RedisWebhookStore(client, prefix, LIMITS))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        yield server


@pytest.fixture
def real(settings, redis_client) -> Post:
    """Stores on the real server, as couriers have them."""
    prefix = "{" + settings.redis_prefix + "}:"
    return Post(RedisStore(redis_client, prefix, RETENTION), RedisWebhookStore(redis_client, prefix))


@pytest.fixture
def run_courier(settings, real: Post) -> Iterator[Callable[..., None]]:
    """Runs a courier of this process that may call loopback; ends it as a signal would. ``changes``: settings."""
    running: list[tuple[threading.Thread, Callable[[], None]]] = []

    def run(**changes) -> None:
        given = {"webhook_allowlist": "127.0.0.0/8", "webhook_retry_s": "0.1,0.1,0.1", "webhook_timeout_s": 2}
        mine = {"redis_url": settings.redis_url, "redis_prefix": settings.redis_prefix}
        courier, _ = build(load_settings(**given | changes | mine))
        loop, stop, hurry = asyncio.new_event_loop(), asyncio.Event(), asyncio.Event()
        thread = threading.Thread(target=loop.run_until_complete, args=(courier.run(stop, hurry),))
        thread.start()

        def end() -> None:
            loop.call_soon_threadsafe(stop.set)
            loop.call_soon_threadsafe(hurry.set)
            thread.join(20)
            loop.close()

        running.append((thread, end))
        until(lambda: real.jobs.fleet().couriers >= len(running), 20, every_s=0.01, what="a courier")

    yield run
    for thread, end in running:
        end()
        assert not thread.is_alive()


@pytest.fixture
def start_courier(settings, real: Post, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts real courier processes that may call loopback."""
    started: list[Process] = []

    def start(**env: str) -> Process:
        everything = {
            "REDIS_URL": settings.redis_url,
            "REDIS_PREFIX": settings.redis_prefix,
            "WEBHOOK_ALLOWLIST": "127.0.0.0/8",
            "WEBHOOK_RETRY_S": "0.1,0.1,0.1",
            "WEBHOOK_TIMEOUT_S": "2",
        }
        process = Process(
            [sys.executable, "-m", "worker.courier"], tmp_path / f"courier{len(started)}.log", everything | env
        )
        before = real.jobs.fleet().couriers
        started.append(process)

        def announced() -> bool:
            assert process.process.poll() is None, process.output()
            return real.jobs.fleet().couriers > before

        until(announced, 30, what="a courier")
        return process

    yield start
    for process in started:
        process.kill()


__all__ = ["ENDS", "LIMITS", "URL", "Post", "success"]
