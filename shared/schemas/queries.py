"""Path, query and header parameters."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.schemas.text import (
    CURSOR,
    QUEUE,
    TENANT,
    WORKER,
    JobId,
    ModelName,
    ModeName,
    MomentParameter,
    UserId,
    in_digits,
)

GROUP_BY = r"^(none|(key|model|day)(,(key|model|day)){0,2})$"


class Parameters(BaseModel):
    """Parameters of a request; those that are not declared are refused. The schema is made once a class: flask-openapi3
    asks for it with every request."""

    model_config = ConfigDict(extra="forbid")

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return super().model_json_schema(*args, **kwargs) if args or kwargs else _schema_of(cls)


@cache
def _schema_of(model: type[Parameters]) -> dict[str, Any]:
    return super(Parameters, model).model_json_schema()


def _may_be_left_out(schema: dict[str, Any]) -> None:
    """A parameter has no spelling for null: leaving it out is the only way to say nothing."""
    schema.pop("default", None)
    for member in schema.pop("anyOf", ()):
        schema.update({} if member == {"type": "null"} else member)


def _number_or_nothing(schema: dict[str, Any]) -> None:
    _may_be_left_out(schema)
    schema.update(type="integer", minimum=0)


def absent(**constraints: Any) -> Any:
    """The field of a parameter that may be left out."""
    return Field(default=None, json_schema_extra=_may_be_left_out, **constraints)


def wait_up_to(seconds: int) -> tuple[Any, Any]:
    """The ``wait`` parameter: its type and its field."""
    kind: Any = Annotated[int, Field(ge=0, le=seconds), in_digits(0, seconds)]
    field = absent(description="Seconds to wait for an end; without one in time, the answer so far.")
    return kind, field  # a default is not validated, so None needs no place in the type


class NoQuery(Parameters):
    """No parameter."""


class WaitQuery(Parameters):
    """A long poll."""

    wait: int | None = None


class PageQuery(Parameters):
    """A page of a list."""

    limit: Annotated[int, Field(ge=1, le=100), in_digits(1, 100)] = Field(20, description="Most objects on the page.")
    cursor: Annotated[str, Field(pattern=CURSOR)] | None = absent(description="next_cursor of the page before.")


class ResultsQuery(Parameters):
    """A page of a batch's results."""

    limit: Annotated[int, Field(ge=1, le=1000), in_digits(1, 1000)] = Field(1000, description="Most lines.")
    cursor: str | None = absent(
        description="`cursor` of the last line that you have, or the `X-Next-Cursor` of the page."
    )


class JobsQuery(PageQuery):
    """Which jobs."""

    status: Literal["queued", "running", "succeeded", "failed", "canceled", "expired"] | None = absent()
    mode: ModeName | None = absent()
    model: ModelName | None = absent()
    user_id: UserId | None = absent()
    created_after: MomentParameter | None = absent(description="RFC 3339, exclusive.")
    created_before: MomentParameter | None = absent(description="RFC 3339, exclusive.")


class JobPath(Parameters):
    job_id: JobId


class BatchPath(Parameters):
    batch_id: JobId


class KeyPath(Parameters):
    key_id: JobId


class QueuePath(Parameters):
    model: Annotated[str, Field(min_length=1, max_length=256, pattern=QUEUE)]


class WorkerPath(Parameters):
    worker_id: Annotated[str, Field(min_length=1, max_length=256, pattern=WORKER)]


class DeadLetterPath(Parameters):
    tenant: Annotated[str, Field(min_length=1, max_length=64, pattern=TENANT)]
    job_id: JobId


class UsageQuery(Parameters):
    """What to add up."""

    group_by: Annotated[str, Field(pattern=GROUP_BY)] = Field(
        "day", description="Some of `key`, `model`, `day`, comma-separated; `none` is the sum alone."
    )
    days: Annotated[int, Field(ge=1, le=90), in_digits(1, 90)] = Field(
        30, description="How many days, up to today (UTC)."
    )


class UserPath(Parameters):
    user_id: UserId


class Headers(Parameters):
    """Request headers that a route reads; all others are none of its business."""

    model_config = ConfigDict(extra="ignore")


class PreferHeader(Headers):
    """RFC 7240. Preferences that are unknown or malformed are passed over, as it asks."""

    prefer: str | None = Field(
        default=None,
        alias="Prefer",
        json_schema_extra=_may_be_left_out,
        description="`wait=N`: answer with the finished job if it ends within N seconds.",
    )


class StreamQuery(Parameters):
    """Where to go on in a stream. Checked by the route, which has a status of its own for it."""

    starting_after: str | None = Field(
        default=None,
        json_schema_extra=_number_or_nothing,
        description="Number of the event after which to go on; 0 is from the start.",
    )


class StreamHeader(Headers):
    """What a browser sends when it reconnects; it comes before the query."""

    last_event_id: str | None = Field(
        default=None,
        alias="Last-Event-ID",
        json_schema_extra=_may_be_left_out,
        description="As `starting_after`.",
    )


class ConditionalHeader(Headers):
    if_none_match: str | None = Field(
        default=None,
        alias="If-None-Match",
        json_schema_extra=_may_be_left_out,
        description="The `ETag` that you have: 304 where it still holds.",
    )
