"""How the service is, for people, load balancers and Docker."""

from __future__ import annotations

from flask import Response

from api.rendering import answer
from api.routing import PUBLIC, Route
from api.services import Services, services
from shared.errors import SmartTextGenError, UnavailableError
from shared.schemas import Alive, Health
from shared.store.protocol import Fleet


def routes() -> list[Route]:
    return [
        Route("GET", "/health", health, "health", {200: Health}, scope=PUBLIC),
        Route("GET", "/livez", livez, "health", {200: Alive}, scope=PUBLIC),
        Route("GET", "/readyz", readyz, "health", {200: Alive}, (503,), scope=PUBLIC),
    ]


def health() -> Response:
    """How the service is.

    Always 200, and the truth in the body: `degraded` where no worker is ready, `down` where Redis is away.
    """
    house = services()
    fleet = _fleet(house)
    reachable = fleet is not None
    ready = [worker for worker in fleet.workers if worker.state == "ready"] if fleet else []
    default = house.fleet.default_model
    served = any(worker.model.name == default for worker in ready)
    return answer(
        Health(
            status="down" if not reachable else "ok" if ready else "degraded",
            model=default,
            model_status="unknown" if not reachable else "ready" if served else "unavailable",
            redis_status="connected" if reachable else "unavailable",
            cache_status="unavailable" if not reachable else "enabled" if house.settings.cache_ttl_s else "disabled",
            api_key_status="required",
            environment=house.settings.environment,
            workers=len(ready),
            couriers=fleet.couriers if fleet else 0,
            queue_length=sum(fleet.queue_lengths.values()) if fleet else 0,
        )
    )


def _fleet(house: Services) -> Fleet | None:
    """As it is now, or None where Redis is away."""
    try:
        return house.fleet.refresh()
    except SmartTextGenError:
        return None


def livez() -> Response:
    """The process answers."""
    return answer(Alive())


def readyz() -> Response:
    """The process takes requests: 503 while Redis is away, and once it was told to stop."""
    house = services()
    if house.draining.is_set():
        raise UnavailableError("The process is stopping.")
    house.store.ping()
    return answer(Alive())
