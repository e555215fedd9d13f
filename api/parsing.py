"""Reading a request strictly: what pydantic cannot see any more once a lenient parser has been over it."""

from __future__ import annotations

import json
import re
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any, NoReturn
from urllib.parse import unquote_to_bytes

from flask import Request, request
from werkzeug.exceptions import RequestEntityTooLarge

from api.deadlines import reading
from api.errors import (
    MalformedJsonError,
    MalformedRequestError,
    PayloadTooLargeError,
    RequestTimeoutError,
    UnsupportedMediaTypeError,
    ValidationFailedError,
)

BODY_DEADLINE_S = 20.0
"""A body must have arrived after so long: a half-sent one holds a thread."""

LONGEST_NUMBER = 64
"""Digits. Python's own limit raises at 4,300, and a float overflows at 309."""

LEAST_VALUES = 10_000
BYTES_PER_VALUE = 64
"""A body may hold one value for so many bytes that it might have, and always LEAST_VALUES: an object of Python takes 56 bytes
or more, so that a body of ``[],[],[],…`` would take twenty times its size."""

_PIECE = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[,\[{]', re.DOTALL)
"""A string, also one that does not end, or what stands before a value. Never goes back, so it is linear in the body."""


class StrictRequest(Request):
    """A Flask request whose ``get_json`` takes UTF-8 JSON objects labelled as such, and nothing that resembles them."""

    def get_json(self, force: bool = False, silent: bool = False, cache: bool = True) -> Any:  # noqa: ARG002  # Flask's signature
        """The body's object.

        Raises: UnsupportedMediaTypeError, PayloadTooLargeError, RequestTimeoutError, MalformedRequestError,
        MalformedJsonError, ValidationFailedError (valid JSON that is no object).
        """
        if self.mimetype != "application/json":
            raise UnsupportedMediaTypeError("The Content-Type must be application/json.")
        if self.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise UnsupportedMediaTypeError("The body must not be encoded (compressed).")
        body = self._body()
        self._require_few_values(body)
        value = parse_json(body)
        if not isinstance(value, dict):
            raise ValidationFailedError("The body must be a JSON object.")
        return value

    def _body(self) -> bytes:
        deadline: AbstractContextManager[Any] = reading(self.environ.get("gunicorn.socket"), BODY_DEADLINE_S)
        with deadline as phase:
            try:
                data = self._read()
            except RequestEntityTooLarge as error:
                raise PayloadTooLargeError(f"The body may have {self.max_content_length} bytes at most.") from error
            except Exception as error:  # the server's own, of broken framing and broken connections
                if phase.cut:
                    raise RequestTimeoutError() from error
                raise MalformedRequestError("The body's framing is broken.") from error
        if phase.cut:
            raise RequestTimeoutError()
        if len(data) < (self.content_length or 0):
            raise MalformedRequestError("The body is shorter than its Content-Length.")
        return data

    def _require_few_values(self, body: bytes) -> None:
        most = max(LEAST_VALUES, (self.max_content_length or 0) // BYTES_PER_VALUE)
        if has_more_values(body, most):
            raise PayloadTooLargeError(f"The body may hold {most} values at most.")

    def _read(self) -> bytes:
        data = self.get_data(cache=False)
        # Werkzeug 3.1 cuts a chunked body silently at the limit, where it should refuse it.
        if self.content_length is None and self.environ["wsgi.input"].read(1):
            raise RequestEntityTooLarge
        return data


def has_more_values(body: bytes, most: int) -> bool:
    """Whether a body that may be JSON holds more than ``most`` values, told without making them."""
    if sum(map(body.count, (b",", b"[", b"{"))) <= most:  # those in strings too: most bodies have few
        return False
    marks = (piece for piece in _PIECE.finditer(body) if body[piece.start()] != ord('"'))
    return next(islice(marks, most, None), None) is not None


def parse_json(body: bytes) -> Any:
    """JSON as RFC 8259 has it: UTF-8, no NaN, no doubled names, numbers and nesting within reason.

    Raises: MalformedJsonError.
    """
    try:
        text = body.decode("utf-8")
        return json.loads(
            text, object_pairs_hook=_object, parse_constant=_no_constant, parse_int=_integer, parse_float=_float
        )
    except UnicodeDecodeError as error:
        raise MalformedJsonError("The body is not UTF-8.") from error
    except RecursionError as error:
        raise MalformedJsonError("The body is nested too deeply.") from error
    except ValueError as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise MalformedJsonError(f"The body is not valid JSON: {reason}.") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Which of two equal names counts differs between parsers, so that a proxy may see another request than we do.
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice in an object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _integer(digits: str) -> int:
    if len(digits) > LONGEST_NUMBER:
        raise ValueError("a number is too long")
    return int(digits)


def _float(digits: str) -> float:
    # JSON Schema, and with it the document, has no integers beside numbers: 100.0 is one.
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise ValueError("a number is too large")
    return int(value) if value.is_integer() else value


def refuse_malformed() -> None:
    """Before every request: a path and query that are UTF-8, and no parameter twice.

    Werkzeug would put replacement characters into what it cannot decode, so that two different users could become one.
    Raises: MalformedRequestError, ValidationFailedError.
    """
    path: str = request.environ.get("PATH_INFO", "")
    query: str = request.environ.get("QUERY_STRING", "")
    try:
        path.encode("latin-1").decode("utf-8")
        unquote_to_bytes(query.encode("latin-1")).decode("utf-8")
    except UnicodeError as error:
        raise MalformedRequestError("The URL is not UTF-8.") from error
    for name, values in request.args.lists():
        if len(values) > 1:
            raise ValidationFailedError(f"{name[:200]}: give it once.", param=name[:200])
