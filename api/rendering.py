"""A view as an HTTP answer."""

from __future__ import annotations

from collections.abc import Mapping

from flask import Response

from shared.schemas import Answer


def answer(body: Answer, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A body as JSON."""
    return Response(body.model_dump_json(by_alias=True), status, headers, mimetype="application/json")
