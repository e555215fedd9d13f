"""What the fake API's parts answer with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Answer:
    """``pieces`` are sent one by one, chunked; ``crash``: without the end that tells a whole answer from a cut one."""

    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    pieces: Iterator[bytes] | None = None
    crash: bool = False


def error(code: str, message: str, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}
