"""Webhooks: endpoints, and the durable deliveries that the courier makes."""

from shared.webhooks.protocol import (
    DEFAULT_ENDPOINT,
    Attempt,
    Delivery,
    DeliveryStatus,
    Endpoint,
    Errand,
    Message,
    NewEndpoint,
    Taken,
    Verdict,
    WebhookStore,
    new_secret,
)
from shared.webhooks.redis import RedisWebhookStore

__all__ = [
    "DEFAULT_ENDPOINT", "Attempt", "Delivery", "DeliveryStatus", "Endpoint", "Errand", "Message", "NewEndpoint",
    "RedisWebhookStore", "Taken", "Verdict", "WebhookStore", "new_secret",
]  # fmt: skip
