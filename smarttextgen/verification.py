"""Receiving webhooks: the signature first, then the event (https://www.standardwebhooks.com)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import standardwebhooks

from smarttextgen.decode import decode
from smarttextgen.errors import APIError, ConfigurationError, WebhookVerificationError
from smarttextgen.types import Batch, Job, WebhookEvent


class Headers(Protocol):
    """A request's headers, as any framework has them."""

    def items(self) -> Iterable[tuple[str, str]]: ...


def verify_webhook(body: bytes | str, headers: Headers, secret: str) -> WebhookEvent:
    """Return the event of a delivery. ``body``: as it came, before anything has parsed it; ``secret``: ``whsec_…``.

    Raises: WebhookVerificationError when it was not signed with ``secret``, not within five minutes of now, or is no
    delivery; ConfigurationError when ``secret`` is no secret.
    """
    webhook = _webhook(secret)
    named = {name.lower(): value for name, value in headers.items()}
    try:
        payload = webhook.verify(body, named)
    except (standardwebhooks.WebhookVerificationError, ValueError) as error:
        # ValueError: a signature that is no base64, a body that is no UTF-8 or no JSON.
        reason = error if isinstance(error, standardwebhooks.WebhookVerificationError) else "Malformed delivery"
        raise WebhookVerificationError(f"Not a delivery to be trusted: {reason}") from error
    return _event(named["webhook-id"], payload)


def _webhook(secret: str) -> standardwebhooks.Webhook:
    try:
        if secret.startswith("whsec_"):  # the package takes others, such as an API key that was given by mistake
            return standardwebhooks.Webhook(secret)
    except Exception as error:  # it has no common base for what it raises here
        raise ConfigurationError("That is no webhook secret: what follows whsec_ is not base64") from error
    raise ConfigurationError("That is no webhook secret: it does not start with whsec_")


def _event(message_id: str, payload: Any) -> WebhookEvent:
    try:
        kind, data = str(payload["type"]), payload.get("data") or {}
        return WebhookEvent(
            id=message_id,
            type=kind,
            timestamp=payload.get("timestamp"),
            data=data,
            job=decode(Job, data) if kind.startswith("job.") and _is_object(data) else None,
            batch=decode(Batch, data) if kind.startswith("batch.") and _is_object(data) else None,
        )
    except (TypeError, KeyError, AttributeError, APIError) as error:
        raise WebhookVerificationError("The delivery is signed, but it is no event of SmartTextGen") from error


def _is_object(data: Any) -> bool:
    return isinstance(data, Mapping) and "id" in data
