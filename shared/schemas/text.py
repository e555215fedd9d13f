"""The kinds of text, number and time that cross the wire, each with the one rule that validates and documents it."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

ANY_TEXT = r"^[^\x00]*$"
"""Everything but NUL, which C strings, logs and databases cut at. Lone surrogates fail too: they have no UTF-8."""

USER_ID = r"^[^\x00-\x20\x7f-\x9f./\u2028\u2029][^\x00-\x1f\x7f-\x9f/\u2028\u2029]*$"
"""Printable, without ``/``, and not starting with a space or a dot: clients fold ``/history/..`` away before sending."""

QUEUE = r"^[^\x00-\x20\x7f-\x9f./\u2028\u2029][^\x00-\x1f\x7f-\x9f/\u2028\u2029]*(/[^\x00-\x20\x7f-\x9f./\u2028\u2029][^\x00-\x1f\x7f-\x9f/\u2028\u2029]*)*$"
"""A model's name as a part of a path: what is between its slashes follows the rule of user ids."""

JOB_ID = r"^[A-Za-z0-9_-]+$"
TENANT = r"^[a-z0-9_-]+$"
WORKER = r"^[A-Za-z0-9_@:-][A-Za-z0-9._@:-]*$"
ADAPTER = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
CURSOR = r"^[0-9]{1,15}$"

Text = Annotated[str, Field(pattern=ANY_TEXT)]
UserId = Annotated[str, Field(min_length=1, max_length=128, pattern=USER_ID)]
JobId = Annotated[str, Field(min_length=1, max_length=64, pattern=JOB_ID)]
ModelName = Annotated[str, Field(min_length=1, max_length=256, pattern=ANY_TEXT)]
ModeName = Annotated[str, Field(min_length=1, max_length=64, pattern=ANY_TEXT)]
CustomId = Annotated[str, Field(min_length=1, max_length=64, pattern=ANY_TEXT)]
StopString = Annotated[str, Field(min_length=1, max_length=64, pattern=ANY_TEXT)]
MetadataKey = Annotated[str, Field(min_length=1, max_length=64, pattern=ANY_TEXT)]
MetadataValue = Annotated[str, Field(max_length=512, pattern=ANY_TEXT)]
Timestamp = Annotated[str, Field(json_schema_extra={"format": "date-time"}, examples=["2026-11-22T12:00:00.000Z"])]


Date = Annotated[str, Field(json_schema_extra={"format": "date"}, examples=["2026-11-22"])]


class Strict(BaseModel):
    """A body: unknown fields and near types (``"100"`` or ``true`` for an integer) are refused."""

    model_config = ConfigDict(strict=True, extra="forbid")


class Answer(BaseModel):
    """What the API says. Its schema is exact, so that the document cannot promise less or more."""

    model_config = ConfigDict(extra="forbid", frozen=True)


_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)  # fmt: skip


def milliseconds(moment: str) -> int:
    """An RFC 3339 time as milliseconds since the epoch. A leap second counts as the second after it.

    Raises: ValueError.
    """
    match = _RFC3339.fullmatch(moment)
    if match is None:
        raise ValueError("not an RFC 3339 time")
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    if second > 60:
        raise ValueError("second out of range")
    whole = datetime(max(year, 1), month, day, hour, minute, min(second, 59), tzinfo=UTC)
    since = whole - datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=second - min(second, 59)) - _offset(match[8])
    return since // timedelta(milliseconds=1) + int((match[7] or "0").ljust(3, "0")[:3])


def _offset(zone: str) -> timedelta:
    if zone in "Zz":
        return timedelta()
    hours, minutes = int(zone[1:3]), int(zone[4:6])
    if hours > 23 or minutes > 59:
        raise ValueError("offset out of range")
    return timedelta(hours=hours, minutes=minutes) * (-1 if zone[0] == "-" else 1)


def iso(moment_ms: int) -> str:
    """Milliseconds since the epoch as ISO 8601 in UTC, with milliseconds and a ``Z``."""
    whole = datetime.fromtimestamp(moment_ms // 1000, tz=UTC)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{moment_ms % 1000:03d}Z"


def _moment(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return milliseconds(value)
    except ValueError as error:
        raise PydanticCustomError("date_time", "Should be an RFC 3339 time, such as 2026-11-22T12:00:00Z") from error


def _digits(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(r"\d{1,18}", value, re.ASCII):
        raise PydanticCustomError("int_parsing", "Should be an integer, in digits")
    return value


MomentParameter = Annotated[
    int,
    BeforeValidator(_moment, json_schema_input_type=Annotated[str, Field(json_schema_extra={"format": "date-time"})]),
]
"""A query parameter that holds a time; milliseconds since the epoch once it is read."""


def in_digits(least: int, most: int) -> BeforeValidator:
    """For a whole number among query parameters, beside its bounds. Pydantic's own rule would also take ``+5``, ``5.0``
    and ``1_000``."""
    return BeforeValidator(_digits, json_schema_input_type=Annotated[int, Field(ge=least, le=most)])
