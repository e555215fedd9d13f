"""API keys, for administrators."""

from __future__ import annotations

from flask import Response, request

from api.errors import IdempotencyRefusedError
from api.rendering import answer
from api.routing import Route
from api.services import services
from shared.keys import NewKey
from shared.schemas import KeyPath, KeyRequest, KeyView, NewKeyView, Page, PageQuery
from shared.views import key_view, new_key_view


def routes() -> list[Route]:
    base = "/api/admin/keys"
    one = f"{base}/<key_id>"
    return [
        Route(
            "POST",
            base,
            create_key,
            "keys",
            {201: NewKeyView},
            scope="admin",
            links=("revoke_key:key_id", "rotate_key:key_id"),
        ),
        Route("GET", base, list_keys, "keys", {200: Page[KeyView]}, scope="admin"),
        Route("DELETE", one, revoke_key, "keys", {204: None}, (404,), scope="admin"),
        Route("POST", f"{one}/rotate", rotate_key, "keys", {200: NewKeyView}, (404,), scope="admin"),
    ]


def create_key(body: KeyRequest) -> Response:
    """Make an API key.

    The key is in this answer and nowhere else, ever; so an Idempotency-Key is refused here.
    """
    _refuse_replays()
    key, secret = services().keys.create(
        NewKey(
            tenant=body.tenant,
            name=body.name,
            scopes=frozenset(body.scopes),
            weight=body.weight,
            requests_per_minute=body.requests_per_minute,
            tokens_per_day=body.tokens_per_day,
            max_queued=body.max_queued,
        )
    )
    return answer(new_key_view(key, secret), 201, {"Cache-Control": "no-store"})


def list_keys(query: PageQuery) -> Response:
    """List the API keys of all tenants, newest first, without their secrets."""
    keys = services().keys.list_keys()
    # A cursor is a place counted from the oldest key, so that new ones do not shift it.
    end = min(int(query.cursor), len(keys)) if query.cursor is not None else len(keys)
    begin = max(0, end - query.limit)
    views = [key_view(key) for key in reversed(keys[begin:end])]
    return answer(Page[KeyView](data=views, next_cursor=str(begin) if begin else None, has_more=begin > 0))


def revoke_key(path: KeyPath) -> Response:
    """Revoke an API key.

    Its jobs stay. Submits are refused at once; for other requests the other processes may take some seconds to notice.
    """
    services().keys.revoke(path.key_id)
    services().key_memory.forget(path.key_id)
    return Response(status=204)


def rotate_key(path: KeyPath) -> Response:
    """Give an API key a new secret.

    The old one stops at once; id, tenant and limits stay.
    """
    _refuse_replays()
    key, secret = services().keys.rotate(path.key_id)
    services().key_memory.forget(path.key_id)
    return answer(new_key_view(key, secret), 200, {"Cache-Control": "no-store"})


def _refuse_replays() -> None:
    if "Idempotency-Key" in request.headers:
        raise IdempotencyRefusedError(param="Idempotency-Key")
