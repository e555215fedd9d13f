"""Webhook endpoints: where the service reports to, and what became of its reports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from smarttextgen.decode import decode
from smarttextgen.transport import Transport
from smarttextgen.types import Delivery, Page, WebhookEndpoint, WebhookEventType
from smarttextgen.wire import given, page_of, segment, walk

PATH = "/api/webhooks"
DEFAULT_ENDPOINT = "default"  # signs for the webhooks that single jobs and batches name


class Webhooks:
    """``client.webhooks``. Every method with an endpoint's id takes ``default`` too, and raises NotFoundError."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self, url: str, *, events: Sequence[WebhookEventType] | None = None, description: str | None = None
    ) -> WebhookEndpoint:
        """Make an endpoint for ``events`` (default: all but job.output); its ``secret`` is shown this once."""
        body = given({"url": url, "events": None if events is None else [*events], "description": description})
        return self._endpoint("POST", PATH, body, repeatable=False)

    def list(self) -> Iterator[WebhookEndpoint]:
        """All endpoints but ``default``, newest first, without their secrets."""
        return walk(
            lambda cursor: page_of(
                WebhookEndpoint, self._transport.request("GET", PATH, params={"cursor": cursor, "limit": 100}).json()
            )
        )

    def get(self, endpoint_id: str) -> WebhookEndpoint:
        """The endpoint, without its secret."""
        return self._endpoint("GET", _path(endpoint_id))

    def update(
        self,
        endpoint_id: str,
        *,
        url: str | None = None,
        events: Sequence[WebhookEventType] | None = None,
        description: str | None = None,
        status: str | None = None,
    ) -> WebhookEndpoint:
        """Change what is given. ``status``: enabled or disabled."""
        changes = {
            "url": url,
            "events": None if events is None else [*events],
            "description": description,
            "status": status,
        }
        return self._endpoint("PATCH", _path(endpoint_id), given(changes))

    def delete(self, endpoint_id: str) -> None:
        """Delete an endpoint; nothing more is sent to it."""
        self._transport.request("DELETE", _path(endpoint_id))

    def rotate_secret(self, endpoint_id: str) -> WebhookEndpoint:
        """Give it a new ``secret``, shown this once. The old one signs along for 24 hours."""
        return self._endpoint("POST", _path(endpoint_id, "rotate_secret"), repeatable=False)

    def default_secret(self) -> str:
        """The secret that signs the webhooks of single jobs and batches."""
        return str(self._transport.request("GET", _path(DEFAULT_ENDPOINT, "secret")).json()["secret"])

    def test(self, endpoint_id: str) -> Delivery:
        """Send a test event; returns its delivery."""
        return self._delivery(_path(endpoint_id, "test"))

    def deliveries_page(
        self, endpoint_id: str, *, status: str | None = None, cursor: str | None = None, limit: int = 20
    ) -> Page[Delivery]:
        """One page of an endpoint's deliveries, newest first. ``status``: pending, delivered or failed."""
        params = {"status": status, "cursor": cursor, "limit": limit}
        return page_of(Delivery, self._transport.request("GET", _path(endpoint_id, "deliveries"), params=params).json())

    def deliveries(self, endpoint_id: str, *, status: str | None = None) -> Iterator[Delivery]:
        """All of an endpoint's deliveries, newest first, fetched page by page."""
        return walk(lambda cursor: self.deliveries_page(endpoint_id, status=status, cursor=cursor, limit=100))

    def redeliver(self, endpoint_id: str, delivery_id: str) -> Delivery:
        """Send a message again; returns its delivery."""
        return self._delivery(_path(endpoint_id, "deliveries", delivery_id, "redeliver"))

    def _endpoint(self, method: str, path: str, body: Any = None, *, repeatable: bool = True) -> WebhookEndpoint:
        return decode(WebhookEndpoint, self._transport.request(method, path, json=body, repeatable=repeatable).json())

    def _delivery(self, path: str) -> Delivery:
        return decode(Delivery, self._transport.request("POST", path, repeatable=False).json())


def _path(*parts: str) -> str:
    return "/".join((PATH, *map(segment, parts)))
