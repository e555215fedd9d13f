"""What can be asked for: modes and models."""

from __future__ import annotations

from flask import Response

from api.rendering import answer
from api.routing import ANY_SCOPE, Route
from api.services import services
from shared.schemas import ModelView, ModeView, Page


def routes() -> list[Route]:
    return [
        Route("GET", "/api/modes", list_modes, "catalog", {200: Page[ModeView]}, scope=ANY_SCOPE),
        Route("GET", "/api/models", list_models, "catalog", {200: Page[ModelView]}, scope=ANY_SCOPE),
    ]


def list_modes() -> Response:
    """List the prompt modes."""
    modes = services().modes.by_name.values()
    views = [ModeView(name=mode.name, description=mode.description) for mode in modes]
    return answer(Page[ModeView](data=views, next_cursor=None, has_more=False))


def list_models() -> Response:
    """List the models, the default one first."""
    views = [_model(name) for name in services().fleet.names()]
    return answer(Page[ModelView](data=views, next_cursor=None, has_more=False))


def _model(name: str) -> ModelView:
    view = services().fleet
    fleet = view.current
    info = fleet.models.get(name)
    ready = sum(worker.model.name == name and worker.state == "ready" for worker in fleet.workers)
    return ModelView(
        name=name,
        default=name == view.default_model,
        status="ready" if ready else "unavailable",
        workers=ready,
        queue_length=fleet.queue_lengths.get(name, 0),
        context_length=info.context_length if info else None,
        revision=info.revision if info else None,
        engine=info.engine if info else None,
        device=info.device if info else None,
        dtype=info.dtype if info else None,
        vocab_size=info.vocab_size if info else None,
        adapters=list(info.adapters) if info else [],
    )
