"""Webhooks on the wire: which events there are, endpoints, deliveries."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from shared.addresses import LONGEST_URL, PUBLIC_URL, Guard, RefusedUrlError
from shared.schemas.queries import PageQuery, Parameters, absent
from shared.schemas.text import Answer, JobId, Strict, Text, Timestamp

JobEvent = Literal["job.started", "job.output", "job.succeeded", "job.failed", "job.canceled", "job.expired"]
Event = Literal[JobEvent, "batch.completed"]
ENDS: tuple[JobEvent, ...] = ("job.succeeded", "job.failed", "job.canceled", "job.expired")
"""What a job's own webhook is told of by default."""
ALL_BUT_OUTPUT: tuple[Event, ...] = ("job.started", *ENDS, "batch.completed")
"""What an endpoint is told of by default."""

WEBHOOK = "Where to tell of it: an https url of the public internet (or one that the operator allows)."
DeliveryStatusName = Literal["pending", "delivered", "failed"]


def webhook_url(guard: Guard) -> Any:
    """The type of a url that a guard lets through. Documented as the pattern of those that anybody may give, where there is
    no allow-list that lets through more."""

    def check(value: str) -> str:
        try:
            guard.parse(value)
        except RefusedUrlError as error:
            raise PydanticCustomError("webhook_url", str(error)) from error
        return value

    shape: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": LONGEST_URL}
    if guard == Guard():
        shape["pattern"] = PUBLIC_URL
    return Annotated[str, AfterValidator(check), WithJsonSchema(shape)]


WebhookUrl = Annotated[Text, Field(min_length=1, max_length=LONGEST_URL)]
"""Before a deployment's guard is put in its place, see ``bounded``."""
Events = Annotated[list[Event], Field(min_length=1, max_length=7)]
JobEvents = Annotated[list[JobEvent], Field(min_length=1, max_length=6)]
Description = Annotated[Text, Field(max_length=256)]


class WebhookRequest(Strict):
    """An endpoint to make."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"url": "https://hooks.example.com/textgen"}]})

    url: WebhookUrl = Field(description=WEBHOOK)
    events: Events = Field(list(ALL_BUT_OUTPUT), description="What to tell it of.")
    description: Description = Field("", description="For people.")


class WebhookChange(Strict):
    """What to change of an endpoint. What is left out stays."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"events": ["job.failed"]}]})

    url: WebhookUrl = absent(description=WEBHOOK)
    events: Events = absent(description="What to tell it of.")
    description: Description = absent(description="For people.")
    status: Literal["enabled", "disabled"] = absent(description="A disabled one is told nothing.")


class WebhookPath(Parameters):
    endpoint_id: JobId


class DeliveryPath(WebhookPath):
    delivery_id: JobId


class DeliveriesQuery(PageQuery):
    """Which deliveries."""

    status: DeliveryStatusName | None = absent()


class WebhookView(Answer):
    """An endpoint, without its secret. ``url`` is null for the built-in one. ``disabled_reason``: ``requested``, ``gone`` (it
    answered 410) or ``failing`` (for days)."""

    id: str
    url: str | None
    events: list[Event]
    description: str
    status: Literal["enabled", "disabled"]
    disabled_reason: str | None
    created_at: Timestamp


class NewWebhookView(WebhookView):
    """An endpoint with its secret, which is shown this once."""

    secret: str


class SecretView(Answer):
    """The secret of the built-in endpoint."""

    secret: str


class DeliveryView(Answer):
    """One message to one endpoint. ``response_status`` and ``error`` are of the latest attempt."""

    id: str
    message_id: str
    endpoint_id: str
    type: str
    job_id: str | None
    batch_id: str | None
    url: str
    status: DeliveryStatusName
    attempts: int
    response_status: int | None
    error: str | None
    created_at: Timestamp
    next_attempt_at: Timestamp | None
    delivered_at: Timestamp | None
