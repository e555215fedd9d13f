"""The Celery app, and the names of its tasks and queues. The API sends by name; it cannot import a task.

A message is a hint that there is work: it carries a job's name, never a prompt, and the record in the store
decides. Settings with their measured reasons: ``docs/decisions/0003-celery-carries-hints.md``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlsplit

import redis
import structlog
from celery import Celery
from kombu import Queue
from kombu.transport.redis import Transport as RedisTransport
from redis._parsers.base import BaseParser

from shared.errors import StoreUnavailableError
from shared.job import JobRef
from shared.settings import Settings
from shared.store.connection import sentinel_options
from shared.store.protocol import Hint
from shared.store.scripts import TAKES_NO_WRITES

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

GENERATE = "smarttextgen.generate"
"""The one task: run the job that the hint names."""

AHEAD, NORMAL = 0, 3
"""Celery's Redis priorities, 0 the most urgent; each is a list of its own on the broker (facts.md, section 2)."""

SERVER_ID = re.compile(r"job_[0-9a-f]{32}")


def queue_name(prefix: str, model: str) -> str:
    """The queue of a model's workers. ``prefix`` keeps deployments on one server apart."""
    return f"{prefix}.generate.{quote(model, safe='')}"


def task_id(ref: JobRef) -> str:
    """The Celery task's id: the job's own, so that Flower finds it. A client-chosen id is unique only within its tenant,
    so it takes the tenant along."""
    return ref.id if SERVER_ID.fullmatch(ref.id) else str(ref)


class TakesNoWritesError(redis.exceptions.ResponseError):
    """An answer of ``TAKES_NO_WRITES`` that redis-py has no class for."""


def make_celery(settings: Settings) -> Celery:
    """A Celery app on the store's server. It connects when it is first used."""
    survive_outages()
    app = Celery("smarttextgen", broker=broker_url(settings), set_as_current=False)
    queue = queue_name(settings.redis_prefix, settings.public_model_name)
    app.conf.update(
        task_default_queue=queue,
        task_queues=[Queue(queue)],
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=False,
        task_publish_retry=False,
        task_send_sent_event=True,
        worker_send_task_events=True,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_pool_limit=2,
        broker_transport_options={
            "ack_emulation": False,
            "socket_timeout": 5,
            "socket_connect_timeout": 2,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "priority_steps": [AHEAD, NORMAL],
            "queue_order_strategy": "priority",
            "global_keyprefix": "{" + settings.redis_prefix + "}:celery:",
            **_sentinel_options(settings),
        },
    )
    return app


def broker_url(settings: Settings) -> str:
    """The store's server as kombu names it. Each sentinel carries user, password and database of the server."""
    if not settings.redis_sentinels:
        return settings.redis_url
    url = urlsplit(settings.redis_url)
    identity = url.netloc.rpartition("@")[0]
    who = f"{identity}@" if identity else ""
    return ";".join(f"sentinel://{who}{sentinel}{url.path or '/0'}" for sentinel in settings.redis_sentinels)


def _sentinel_options(settings: Settings) -> dict[str, Any]:
    if not settings.redis_sentinels:
        return {}
    return {"master_name": settings.redis_sentinel_master, "sentinel_kwargs": sentinel_options(settings)}


def survive_outages() -> None:
    """Let a consumer that meets a Redis which takes no writes (full, short of replicas, read-only) try again with its back-off, as
    it does where Redis is away: kombu counts the error among those that nothing can be done about, and the worker would end; it
    goes by classes, and for some of these answers redis-py has none. And let it close a connection that broke between a message
    and its acknowledgement without putting the message back, which needs a connection (an AttributeError that ends the worker
    too): the message was a hint, and the reconciler finds those that get lost."""
    known: dict[str, Any] = BaseParser.EXCEPTION_CLASSES
    away = {known.setdefault(code, TakesNoWritesError) for code in TAKES_NO_WRITES}
    errors = {*RedisTransport.connection_errors, *away, redis.exceptions.ExecAbortError}
    RedisTransport.connection_errors = tuple(errors)
    RedisTransport.Channel.do_restore = False


def send_hints(app: Celery, hints: Sequence[Hint], *, prefix: str) -> None:
    """Tell the workers that these jobs wait; several go out over one connection, in their order.

    The store has put them in order, so they share a priority; one that is sent again goes ahead.
    Raises: StoreUnavailableError where the broker is away (some of the hints may have gone out; the reconciler sends
    again what got lost).
    """
    if not hints:
        return
    try:
        with app.producer_pool.acquire(block=True, timeout=5) as producer:
            for hint in hints:
                app.send_task(
                    GENERATE,
                    args=[str(hint.ref)],
                    task_id=task_id(hint.ref),
                    queue=queue_name(prefix, hint.model),
                    priority=AHEAD if hint.again else NORMAL,
                    producer=producer,
                    ignore_result=True,
                )
    except Exception as error:  # kombu and its transports raise much; whatever it is, the rest did not go out
        raise StoreUnavailableError("The queue does not answer.") from error


def offer_hints(app: Celery, hints: Sequence[Hint], *, prefix: str) -> None:
    """Send hints, or leave it to the reconciler, which finds those that did not go out within seconds. Raises nothing."""
    try:
        send_hints(app, hints, prefix=prefix)
    except StoreUnavailableError as error:  # the jobs wait in the store all the same
        log.warning("hints not sent", count=len(hints), reason=type(error.__cause__).__name__)
