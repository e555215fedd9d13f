"""What the client's parts share in talking to the service: bodies without Nones, paths, lists that come in pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

from smarttextgen.decode import decode
from smarttextgen.types import Page

R = TypeVar("R")


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def segment(identifier: str) -> str:
    """An id as a part of a path, whatever it holds."""
    return quote(identifier, safe="")


def page_of(record: type[R], body: Any) -> Page[R]:
    """A page as the service sends it."""
    page = decode(Page, {**body, "data": None})
    return Page(tuple(decode(record, each) for each in body.get("data", ())), page.next_cursor, page.has_more)


def walk(fetch: Callable[[str | None], Page[R]]) -> Iterator[R]:
    """Every item of a list. ``fetch`` gets the cursor of a page."""
    cursor: str | None = None
    while True:
        page = fetch(cursor)
        yield from page.data
        cursor = page.next_cursor
        if not page.has_more or not cursor:
            return
