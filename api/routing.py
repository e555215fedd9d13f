"""Routes as a table: each row says what a route does, who may call it, and everything that it may answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, get_type_hints

from flask import Response
from flask_openapi3.models.tag import Tag
from flask_openapi3.openapi import OpenAPI
from pydantic import BaseModel

from api.documents import Media, documented_responses
from shared.schemas import Answer, NoQuery

View = Callable[..., Response]

PUBLIC = "public"
ANY_SCOPE = "any"
SECURITY: list[dict[str, list[Any]]] = [{"api_key": []}, {"bearer": []}]


@dataclass(frozen=True, slots=True)
class Route:
    """One operation. ``answers``: success statuses with their body (None for none; Media where it is not JSON). ``errors``: statuses beyond those
    that every route of its kind has. ``models``: parameter models with a deployment's bounds, in place of the annotated
    ones. ``scope``: what a key must be allowed; ``ANY_SCOPE`` takes any valid key, ``PUBLIC`` needs none. ``links``: operations that go on with the id in the answer, as ``operation:parameter``.
    ``most_bytes``: of its body, where that is not what the settings say for all."""

    method: str
    rule: str
    view: View
    tag: str
    answers: Mapping[int, type[Answer] | Media | None]
    errors: Sequence[int] = ()
    scope: str = "generate"
    models: Mapping[str, type[BaseModel]] = field(default_factory=dict)
    links: Sequence[str] = ()
    most_bytes: int | None = None

    @property
    def name(self) -> str:
        """Endpoint and operation id."""
        return self.view.__name__

    @property
    def takes_body(self) -> bool:
        return "body" in self.models or "body" in get_type_hints(self.view)

    def statuses(self) -> list[int]:
        """Every status of an error that it may answer."""
        every = {500, *self.errors}
        if self.scope != PUBLIC:
            every |= {400, 401, 403, 422, 503}
        if self.takes_body:
            every |= {408, 413, 415}
        return sorted(every)


def mount(app: OpenAPI, routes: Sequence[Route]) -> dict[str, str | None]:
    """Register the routes, and return endpoint → scope of those that need a key."""
    for route in routes:
        _mount(app, route)
    return {route.name: None if route.scope == ANY_SCOPE else route.scope for route in routes if route.scope != PUBLIC}


def _mount(app: OpenAPI, route: Route) -> None:
    summary, _, description = (route.view.__doc__ or "").strip().partition("\n")
    register = getattr(app, route.method.lower())
    options: dict[str, Any] = {} if route.scope == PUBLIC else {"security": SECURITY}
    register(
        route.rule,
        endpoint=route.name,
        operation_id=route.name,
        tags=[Tag(name=route.tag)],
        summary=summary,
        description=" ".join(description.split()) or summary,
        responses=documented_responses(route.answers, route.statuses(), links=route.links),
        **options,
    )(_own(route))


def _own(route: Route) -> View:
    """A copy of the view, whose annotations are what flask-openapi3 validates by: two apps in one process may have other
    bounds. Where a view reads no query, there is none to be given."""
    view = route.view
    hints = get_type_hints(view)
    wanted = hints.keys()

    @wraps(view)
    def copy(**given: Any) -> Response:
        return view(**{name: value for name, value in given.items() if name in wanted})

    unread = {} if "query" in hints or route.scope == PUBLIC else {"query": NoQuery}
    copy.__annotations__ = {**hints, **unread, **route.models}
    return copy
