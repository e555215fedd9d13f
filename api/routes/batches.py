"""Batches that are there."""

from __future__ import annotations

from flask import Response

from api.identity import caller
from api.rendering import answer
from api.routing import Route
from api.services import services
from shared.schemas import BatchPath, BatchView
from shared.views import batch_done, batch_eta, batch_view, retry_after


def routes() -> list[Route]:
    return [Route("GET", "/api/batches/<batch_id>", get_batch, "batches", {200: BatchView}, (404,))]


def get_batch(path: BatchPath) -> Response:
    """Get a batch.

    Counts while it runs; `inputs`, `outputs` and `history` once it is completed.
    """
    batch = services().store.get_batch(caller().tenant, path.batch_id)
    headers = {} if batch_done(batch) else {"Retry-After": retry_after(batch_eta(batch))}
    return answer(batch_view(batch), 200, headers)
