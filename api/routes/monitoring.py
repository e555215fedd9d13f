"""What Prometheus reads."""

from __future__ import annotations

from flask import Response

from api.documents import Media
from api.routing import PUBLIC, Route
from api.services import services


def routes() -> list[Route]:
    return [
        Route(
            "GET",
            "/metrics",
            metrics,
            "health",
            {200: Media("text/plain", "Metrics.", {"type": "string"}, "textgen_redis_up 1.0\n")},
            scope=PUBLIC,
        )
    ]


def metrics() -> Response:
    """Metrics in Prometheus' text format.

    Needs no key, as Prometheus has none: a proxy before the API should not pass it on.
    """
    body, media_type = services().metrics.exposition()
    return Response(body, content_type=media_type)
