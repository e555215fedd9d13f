"""Signatures as Standard Webhooks has them, by its own package."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from standardwebhooks import Webhook


def signature_headers(message_id: str, body: str, secrets: Sequence[str], now: float) -> dict[str, str]:
    """The three headers. Every secret signs, so that a receiver may have the old or the new one while they rotate.
    now: seconds since the epoch."""
    moment = datetime.fromtimestamp(int(now), UTC)
    signatures = [Webhook(secret).sign(message_id, moment, body) for secret in secrets]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now)),
        "webhook-signature": " ".join(signatures),
    }
