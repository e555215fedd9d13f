"""From JSON to the frozen records, leniently: unknown fields are dropped, absent ones take their defaults."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

from smarttextgen.errors import APIError

R = TypeVar("R")


def decode(record: type[R], data: Any) -> R:
    """Build ``record`` (a dataclass) from a JSON object; nested records and tuples of them included.

    Raises: APIError when ``data`` is not such an object at all (the address belongs to some other service).
    """
    try:
        return typing.cast("R", _record(record, data))
    except (TypeError, AttributeError) as error:
        name = record.__name__
        raise APIError(f"The answer is not a {name} of SmartTextGen. Is the URL right?", status=200) from error


def _record(record: Any, data: Any) -> Any:
    hints = _hints(record)
    return record(**{name: _value(hints[name], data[name]) for name in hints if name in data and _usable(data, name)})


def _usable(data: Mapping[str, Any], name: str) -> bool:
    return data[name] is not None  # a null is the same as an absent field: the default


def _value(hint: Any, value: Any) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next((each for each in typing.get_args(hint) if dataclasses.is_dataclass(each)), Any)
    if dataclasses.is_dataclass(hint):
        return _record(hint, value)
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        return tuple(_value(item, each) if each is not None else None for each in value)
    return value


@cache
def _hints(record: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(record)
    return {field.name: hints[field.name] for field in dataclasses.fields(record)}
