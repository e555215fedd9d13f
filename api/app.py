"""The composition root: ``create_app`` puts given parts together, ``build_app`` alone makes real clients."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_type_hints

from flask import Flask
from pydantic import BaseModel
from redis.asyncio import Redis

from api.admission import Admission
from api.bodies import bound_bodies
from api.context import ContextGuard
from api.documents import DocumentedApp, Media
from api.errors import of_validation, register_errors
from api.fleet import FleetView
from api.hints import CeleryHints, Hints
from api.identity import KeyMemory, register_identity
from api.metrics import HttpMetrics, register_metrics
from api.parsing import StrictRequest, refuse_malformed
from api.routes import (
    batches,
    catalog,
    console,
    docs,
    generate,
    health,
    history,
    jobs,
    keys,
    monitoring,
    operations,
    streams,
    usage,
)
from api.routes import webhooks as webhook_routes
from api.routing import Route, mount
from api.security import register_security
from api.services import EXTENSION, Services
from api.store_collector import StoreCollector
from api.streaming.hub import Hub, Manners
from api.streaming.places import Places
from api.submission import Submitter
from api.tracing import register_tracing
from api.waiting import Listener, WaitingRoom
from shared.keys import KeyStore, RedisKeyStore
from shared.logs import configure_logging
from shared.modes import Modes, load_modes
from shared.queue import make_celery
from shared.schemas import bounded
from shared.settings import Settings, load_settings
from shared.spans import NoTraces, Traces
from shared.store.connection import connect, connect_async, ended_channel, key_prefix
from shared.store.protocol import JobStore
from shared.store.redis import RedisStore
from shared.store.retention import Retention
from shared.store.scripts import Durability
from shared.traces import traces_of
from shared.webhooks import RedisWebhookStore, WebhookStore
from shared.webhooks.redis import Limits


def create_app(
    settings: Settings,
    *,
    store: JobStore,
    key_store: KeyStore,
    hints: Hints,
    modes: Modes,
    room: WaitingRoom,
    fleet: FleetView,
    hub: Hub,
    webhooks: WebhookStore,
    traces: Traces | None = None,
) -> DocumentedApp:
    """An app of these parts. It starts no thread and makes no connection."""
    app = DocumentedApp("api")
    app.request_class = StrictRequest
    app.config["MAX_CONTENT_LENGTH"] = settings.api_max_body_bytes
    app.url_map.merge_slashes = False  # a redirect would be an answer that is not JSON
    app.validation_error_callback = of_validation
    metrics = HttpMetrics(StoreCollector(store, settings.public_model_name, settings.metrics_tenants))
    room.watch(metrics.long_poll)
    hub.watch(metrics.stream)
    memory = KeyMemory(key_store, settings.api_key_cache_s)
    app.extensions[EXTENSION] = Services(
        settings=settings,
        store=store,
        keys=key_store,
        key_memory=memory,
        modes=modes,
        fleet=fleet,
        room=room,
        admission=Admission(modes, fleet, ContextGuard(store)),
        submitter=Submitter(store, hints, memory, settings),
        hints=hints,
        metrics=metrics,
        streams=hub,
        webhooks=webhooks,
    )
    register_errors(app)
    register_tracing(app, traces or NoTraces())
    register_metrics(app, metrics)
    app.before_request(refuse_malformed)
    table = _routes(settings, modes)
    register_identity(app, memory, mount(app, table))
    bound_bodies(app, {route.name: route.most_bytes for route in table if route.most_bytes})
    _describe(app, table)
    app.register_blueprint(docs.blueprint)
    app.register_blueprint(console.blueprint)
    register_security(app, settings.cors_origins)
    return app


def hub_of(settings: Settings, store: JobStore, connect_news: Callable[[], Redis], prefix: str) -> Hub:
    """The hub of open streams, with the limits and the manners that the settings ask for."""
    places = Places(settings.api_max_streams, settings.max_streams_per_key)
    manners = Manners(settings.stream_ping_s, settings.stream_stall_s, settings.stream_max_s)
    return Hub(store, connect_news, prefix, places, manners)


def _routes(settings: Settings, modes: Modes) -> list[Route]:
    wire = bounded(settings, modes.by_name)
    return [
        *generate.routes(wire),
        *jobs.routes(wire),
        *streams.routes(),
        *batches.routes(wire, settings),
        *history.routes(),
        *catalog.routes(),
        *usage.routes(),
        *webhook_routes.routes(wire),
        *keys.routes(),
        *operations.routes(),
        *health.routes(),
        *monitoring.routes(),
    ]


def _describe(app: DocumentedApp, table: list[Route]) -> None:
    for route in table:
        hints = get_type_hints(route.view) | dict(route.models)
        if issubclass(hints.get("body", type(None)), BaseModel):
            app.describe(hints["body"], "validation")
        for found in route.answers.values():
            model = found.part if isinstance(found, Media) else found
            if model is not None:
                app.describe(model, "serialization")


def build_app(settings: Settings | None = None) -> Flask:
    """The app of a server process, with its real clients and its two threads."""
    settings = settings or load_settings()
    configure_logging(settings, "api")
    client = connect(settings, max_connections=settings.api_threads + 8)
    store = RedisStore(client, key_prefix(settings), Retention.of(settings), durability=Durability.of(settings))
    room = WaitingRoom(settings.api_max_waiters)
    fleet = FleetView(store, settings.public_model_name)
    app = create_app(
        settings,
        store=store,
        key_store=RedisKeyStore(client, key_prefix(settings)),
        hints=CeleryHints(make_celery(settings), settings.redis_prefix),
        modes=load_modes(settings.modes_file),
        room=room,
        fleet=fleet,
        traces=traces_of(settings, "api"),
        hub=hub_of(settings, store, lambda: connect_async(settings), key_prefix(settings)),
        webhooks=RedisWebhookStore(client, key_prefix(settings), Limits.of(settings)),
    )
    fleet.start()
    Listener(connect(settings, max_connections=2), ended_channel(settings), room).start()
    return app
