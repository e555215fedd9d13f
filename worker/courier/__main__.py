"""``python -m worker.courier``: a courier, set up by the environment alone. Any number may run side by side."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import uuid
from collections.abc import Sequence
from functools import partial

import structlog

from shared.errors import ConfigurationError
from shared.logs import configure_logging
from shared.metrics import MetricsPort
from shared.queue import make_celery, offer_hints
from shared.settings import Settings, load_settings
from shared.store.connection import connect, key_prefix
from shared.store.protocol import Patience
from shared.store.redis import RedisStore
from shared.store.retention import Retention
from shared.traces import traces_of
from shared.webhooks import RedisWebhookStore
from shared.webhooks.redis import Limits
from worker.background import Background
from worker.courier.courier import STORE_THREADS, Courier
from worker.courier.metrics import CourierMetrics
from worker.courier.schedule import Schedule
from worker.courier.sender import Sender
from worker.courier.sweeper import Sweeper
from worker.heartbeat import Reconciler

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

EXIT_CONFIGURATION = 78
"""EX_CONFIG of sysexits.h."""


def build(settings: Settings, metrics: CourierMetrics | None = None) -> tuple[Courier, Sequence[Background]]:
    """The courier of this process, and its duties beside that. They connect when they are first used."""
    client = connect(settings, max_connections=STORE_THREADS + 8)
    store = RedisStore(client, key_prefix(settings), Retention.of(settings))
    send = partial(offer_hints, make_celery(settings), prefix=settings.redis_prefix)
    courier = Courier(
        f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}",
        RedisWebhookStore(client, key_prefix(settings), Limits.of(settings)),
        Sender(settings.webhook_guard, settings.webhook_timeout_s),
        Schedule(settings.webhook_delays_s),
        concurrency=settings.webhook_concurrency,
        in_lane=settings.webhook_per_receiver,
        report_patience_s=settings.webhook_timeout_s,
        metrics=metrics,
        traces=traces_of(settings, "courier"),
    )
    patience = Patience(settings.hint_grace_s, settings.priority_age_s, settings.max_crashes)
    return courier, (Reconciler(store, send, patience, interval_s=settings.reconcile_s), Sweeper(store))


async def serve(courier: Courier) -> None:
    """Run until a signal; a second one does not wait for what is under way."""
    loop = asyncio.get_running_loop()
    stop, hurry = asyncio.Event(), asyncio.Event()

    def end() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    log.info("courier ready", courier=courier.name)
    await courier.run(stop, hurry)
    log.info("courier gone", courier=courier.name)


def main() -> None:
    """Run until a signal; then exit with 0. Exit code 78 with a sentence where a setting is wrong."""
    try:
        settings = load_settings()
    except ConfigurationError as error:
        print(error.message, file=sys.stderr)
        raise SystemExit(EXIT_CONFIGURATION) from error
    configure_logging(settings, "courier")
    metrics = CourierMetrics()
    port = MetricsPort(metrics.registry)
    try:
        courier, duties = build(settings, metrics)
        port.open(settings.metrics_host, settings.metrics_port)
    except ConfigurationError as error:
        log.critical("courier cannot start", reason=error.message)
        raise SystemExit(EXIT_CONFIGURATION) from error
    for duty in duties:
        duty.start()
    asyncio.run(serve(courier))
    port.close()
    # Not by way of the interpreter's own end: it would wait for threads that ask a name server which does not answer. What the
    # duties do may be cut at any point.
    logging.shutdown()
    os._exit(0)


if __name__ == "__main__":
    main()
