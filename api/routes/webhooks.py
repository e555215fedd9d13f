"""A tenant's webhook endpoints, and the log of what they were told."""

from __future__ import annotations

from flask import Response, request

from api.errors import IdempotencyRefusedError
from api.identity import caller
from api.rendering import answer
from api.routing import Route
from api.services import services
from shared.schemas import (
    DeliveriesQuery,
    DeliveryPath,
    DeliveryView,
    NewWebhookView,
    Page,
    PageQuery,
    SecretView,
    WebhookChange,
    WebhookPath,
    WebhookRequest,
    WebhookView,
    Wire,
)
from shared.views import delivery_view, new_webhook_view, webhook_url, webhook_view
from shared.webhooks import DEFAULT_ENDPOINT, DeliveryStatus, NewEndpoint

NO_STORE = {"Cache-Control": "no-store"}


def routes(wire: Wire) -> list[Route]:
    base = "/api/webhooks"
    one = f"{base}/<endpoint_id>"
    log = f"{one}/deliveries"
    links = (
        "get_webhook",
        "change_webhook",
        "delete_webhook",
        "test_webhook",
        "list_deliveries",
        "rotate_webhook_secret",
    )
    return [
        Route(
            "POST", base, create_webhook, "webhooks", {201: NewWebhookView}, (409,), models={"body": wire.webhook},
            links=tuple(f"{link}:endpoint_id" for link in links),
        ),
        Route("GET", base, list_webhooks, "webhooks", {200: Page[WebhookView]}),
        Route("GET", one, get_webhook, "webhooks", {200: WebhookView}, (404,)),
        Route(
            "PATCH", one, change_webhook, "webhooks", {200: WebhookView}, (404, 409),
            models={"body": wire.webhook_change},
        ),
        Route("DELETE", one, delete_webhook, "webhooks", {204: None}, (404, 409)),
        Route("GET", f"{base}/{DEFAULT_ENDPOINT}/secret", get_default_secret, "webhooks", {200: SecretView}),
        Route("POST", f"{one}/rotate_secret", rotate_webhook_secret, "webhooks", {200: NewWebhookView}, (404,)),
        Route("POST", f"{one}/test", test_webhook, "webhooks", {202: DeliveryView}, (404, 409)),
        Route("GET", log, list_deliveries, "webhooks", {200: Page[DeliveryView]}, (404,)),
        Route(
            "POST", f"{log}/<delivery_id>/redeliver", redeliver, "webhooks", {202: DeliveryView}, (404, 409, 410),
        ),
    ]  # fmt: skip


def create_webhook(body: WebhookRequest) -> Response:
    """Make a webhook endpoint.

    The secret is in this answer and in that of a rotation, and nowhere else; so an Idempotency-Key is refused here.
    """
    _refuse_replays()
    new = NewEndpoint(body.url, tuple(body.events), body.description)
    endpoint = services().webhooks.create(caller().tenant, new)
    return answer(new_webhook_view(endpoint), 201, {"Location": webhook_url(endpoint.id), **NO_STORE})


def list_webhooks(query: PageQuery) -> Response:
    """List the webhook endpoints, newest first.

    The built-in one, `default`, is not among them.
    """
    endpoints = services().webhooks.list_endpoints(caller().tenant)
    # A cursor is a place counted from the oldest one, so that new ones do not shift it.
    end = min(int(query.cursor), len(endpoints)) if query.cursor is not None else len(endpoints)
    begin = max(0, end - query.limit)
    views = [webhook_view(endpoint) for endpoint in reversed(endpoints[begin:end])]
    return answer(Page[WebhookView](data=views, next_cursor=str(begin) if begin else None, has_more=begin > 0))


def get_webhook(path: WebhookPath) -> Response:
    """Get a webhook endpoint.

    `default` is the built-in one, for the webhooks that jobs and batches bring along.
    """
    return answer(webhook_view(services().webhooks.get(caller().tenant, path.endpoint_id)))


def change_webhook(path: WebhookPath, body: WebhookChange) -> Response:
    """Change a webhook endpoint.

    What waits for it goes to the new url. Enabling it again sends nothing that it missed; see redelivery.
    """
    endpoint = services().webhooks.update(
        caller().tenant,
        path.endpoint_id,
        url=body.url,
        events=None if body.events is None else tuple(body.events),
        description=body.description,
        enabled=None if body.status is None else body.status == "enabled",
    )
    return answer(webhook_view(endpoint))


def delete_webhook(path: WebhookPath) -> Response:
    """Delete a webhook endpoint.

    Its log is gone, and what waits for it is not sent.
    """
    services().webhooks.delete(caller().tenant, path.endpoint_id)
    return Response(status=204)


def get_default_secret() -> Response:
    """Get the secret of the built-in endpoint.

    It signs the webhooks that jobs and batches bring along.
    """
    endpoint = services().webhooks.get(caller().tenant, DEFAULT_ENDPOINT)
    return answer(SecretView(secret=endpoint.secret), 200, NO_STORE)


def rotate_webhook_secret(path: WebhookPath) -> Response:
    """Give a webhook endpoint a new secret.

    For 24 hours the old one signs along: a receiver may have either.
    """
    _refuse_replays()
    return answer(new_webhook_view(services().webhooks.rotate(caller().tenant, path.endpoint_id)), 200, NO_STORE)


def test_webhook(path: WebhookPath) -> Response:
    """Send a test event to a webhook endpoint.

    Of the type `webhook.test`, whatever its events are.
    """
    return answer(delivery_view(services().webhooks.trial(caller().tenant, path.endpoint_id)), 202)


def list_deliveries(path: WebhookPath, query: DeliveriesQuery) -> Response:
    """List what a webhook endpoint was told, newest first.

    A page may hold fewer than `limit` and still have a `next_cursor`.
    """
    status = DeliveryStatus(query.status) if query.status else None
    page = services().webhooks.deliveries(caller().tenant, path.endpoint_id, status, query.cursor, query.limit)
    views = [delivery_view(delivery) for delivery in page.data]
    return answer(Page[DeliveryView](data=views, next_cursor=page.next_cursor, has_more=page.next_cursor is not None))


def redeliver(path: DeliveryPath) -> Response:
    """Deliver again, under the same message id.

    410 where what it told is not kept any more; 409 where the endpoint is disabled.
    """
    delivery = services().webhooks.redeliver(caller().tenant, path.endpoint_id, path.delivery_id)
    return answer(delivery_view(delivery), 202)


def _refuse_replays() -> None:
    if "Idempotency-Key" in request.headers:
        raise IdempotencyRefusedError(param="Idempotency-Key")
