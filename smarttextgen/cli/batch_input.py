"""The prompts of `smarttextgen batch`: a file of lines, checked whole before any of it is sent."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from smarttextgen.errors import ConfigurationError
from smarttextgen.types import BatchRequest

LINES_NAMED = 20
MOST_JOBS = 10_000  # of the service's batches
MOST_BYTES = 32_000_000  # of a request's body: half of what the service takes unless it is told otherwise


class BadLinesError(ConfigurationError):
    """Lines that are no prompts, each with its number."""

    def __init__(self, name: str, bad: Mapping[int, str]) -> None:
        shown = [f"  line {number}: {reason}" for number, reason in list(bad.items())[:LINES_NAMED]]
        more = [f"  and {len(bad) - LINES_NAMED} more"] if len(bad) > LINES_NAMED else []
        lines = "1 bad line" if len(bad) == 1 else f"{len(bad)} bad lines"
        super().__init__("\n".join((f"{name}: {lines}, nothing was sent", *shown, *more)))


@dataclass(frozen=True)
class Item:
    """A prompt, or a request of its own; ``line`` is where it stands (from 1), ``size`` its length as JSON."""

    request: str | BatchRequest
    line: int
    size: int


def read_items(content: bytes, name: str, *, as_text: bool) -> list[Item]:
    """The items of a file: JSON objects ({prompt, custom_id, …}) or JSON strings, or with ``as_text`` plain lines.

    Empty lines are skipped. Raises: BadLinesError, ConfigurationError when there is nothing at all.
    """
    items: list[Item] = []
    bad: dict[int, str] = {}
    custom_ids: dict[str, int] = {}
    for number, line in _lines(content):
        try:
            request = _text(line) if as_text else _request(_text(line))
            _remember(request, number, custom_ids)
            # A lone surrogate (half a character) can be written in JSON, and nowhere else.
            items.append(Item(request, number, len(json.dumps(request, ensure_ascii=False).encode())))
        except UnicodeError:
            bad[number] = "it is not UTF-8"
        except ValueError as error:
            bad[number] = str(error)
    if bad:
        raise BadLinesError(name, bad)
    if not items:
        raise ConfigurationError(f"{name} holds no prompts")
    return items


def parts(items: list[Item], largest: int = MOST_JOBS) -> list[list[Item]]:
    """The batches to make of them, in order: at most ``largest`` jobs in one, and no more bytes than it may have."""
    made: list[list[Item]] = []
    size = 0
    for item in items:
        if not made or len(made[-1]) == largest or size + item.size > MOST_BYTES:
            made.append([])
            size = 0
        made[-1].append(item)
        size += item.size + 20  # what a prompt is wrapped in beside its neighbours
    return made


def _lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The lines that hold anything. Only a line feed ends one: prompts may hold what else Unicode calls a line."""
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if stripped := line.strip(b" \t\r"):
            yield number, stripped


def _text(line: bytes) -> str:
    return line.decode()


def _request(line: str) -> str | BatchRequest:
    try:
        value = json.loads(line, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        hint = "" if line[:1] in '{"' else " (plain text? use --text)"
        raise ValueError(f"it is not JSON: {error}{hint}") from None
    if isinstance(value, str):
        _check("prompt", value)
        return value
    if not isinstance(value, dict):
        raise ValueError("it is neither an object nor a string")  # noqa: TRY004  every bad line is the same error
    request = {name: each for name, each in value.items() if each is not None}
    if "prompt" not in request:
        raise ValueError("it has no prompt")
    for name, each in request.items():
        _check(name, each)
    return typing.cast("BatchRequest", request)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def _check(name: str, value: Any) -> None:
    """The service knows the bounds; here is only seen what cannot be. Raises: ValueError."""
    if name not in _FIELDS:
        raise ValueError(f"{name[:40]!r} is no field; there are {', '.join(_FIELDS)}")
    kinds = _FIELDS[name]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = "a number" if float in kinds else _WORDS[kinds[0]]
        raise ValueError(f"{name} is {_WORDS[type(value)]}, it should be {wanted}")
    if name == "prompt" and not value:
        raise ValueError("its prompt is empty")
    if name == "prompt" and isinstance(value, list) and any(type(token) is not int for token in value):
        raise ValueError("its prompt is a list of something else than token ids")


def _remember(request: str | BatchRequest, number: int, custom_ids: dict[str, int]) -> None:
    custom_id = None if isinstance(request, str) else request.get("custom_id")
    if custom_id is None:
        return
    if custom_id in custom_ids:
        raise ValueError(f"its custom_id is that of line {custom_ids[custom_id]}")
    custom_ids[custom_id] = number


def _kinds(hint: Any) -> tuple[type, ...]:
    """What JSON may hold for a field's type."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return tuple(kind for each in typing.get_args(hint) if each is not type(None) for kind in _kinds(each))
    if origin is typing.Literal:
        return (str,)
    if hint is float:
        return (float, int)
    return (dict,) if origin is Mapping else (origin or hint,)


_FIELDS = {name: _kinds(hint) for name, hint in typing.get_type_hints(BatchRequest).items()}
_WORDS = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}
