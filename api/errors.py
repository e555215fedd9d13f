"""From errors to HTTP: the one place that knows which status belongs to which error, and the one shape of an error body."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType

import structlog
from flask import Flask, Response
from pydantic import ValidationError
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from api.limits import exceeded_headers
from shared.errors import (
    AuthenticationError,
    ConflictError,
    ForeignCursorError,
    GoneError,
    IdempotencyInProgressError,
    IdempotencyKeyReusedError,
    InvalidCursorError,
    InvalidRequestError,
    NotFoundError,
    RateLimitedError,
    ScopeError,
    SmartTextGenError,
    StreamCursorError,
    UnavailableError,
    UnknownModeError,
)
from shared.schemas import ErrorBody, ErrorDetail
from shared.schemas.formats import FORMAT_TAGS
from shared.schemas.requests import PROMPT_TAGS
from shared.schemas.text import ANY_TEXT

log = structlog.get_logger(__name__)


class ValidationFailedError(InvalidRequestError):
    """A field is not valid."""

    code = "validation_error"


class MalformedRequestError(InvalidRequestError):
    """The request is not well-formed HTTP or not UTF-8."""

    code = "malformed_request"


class MalformedJsonError(InvalidRequestError):
    """The body is not valid JSON."""

    code = "malformed_json"


class UnsupportedMediaTypeError(InvalidRequestError):
    """The body must be application/json."""

    code = "unsupported_media_type"


class PayloadTooLargeError(InvalidRequestError):
    """The body is too large."""

    code = "payload_too_large"


class RequestTimeoutError(InvalidRequestError):
    """The body did not arrive in time."""

    code = "request_timeout"


class IdempotencyRefusedError(InvalidRequestError):
    """This route takes no Idempotency-Key: its answer holds a secret, which is not stored for a replay."""

    code = "idempotency_not_supported"


class SlowReaderError(InvalidRequestError):
    """This stream's client did not read what there was; it may go on with a new one."""

    code = "slow_reader"


class ServerDrainingError(UnavailableError):
    """This server is stopping; another one goes on."""

    code = "server_draining"


class LargeBodiesError(UnavailableError):
    """So large a body cannot be taken now: others are being read, of this key or of all."""

    code = "large_bodies"


class StreamTimeoutError(UnavailableError):
    """A stream may not be open for so long; a new one goes on."""

    code = "stream_timeout"


STATUS: Mapping[type[SmartTextGenError], int] = MappingProxyType(
    {
        UnknownModeError: 400,
        MalformedRequestError: 400,
        MalformedJsonError: 400,
        IdempotencyRefusedError: 400,
        ForeignCursorError: 400,
        StreamCursorError: 400,
        RequestTimeoutError: 408,
        SlowReaderError: 408,
        PayloadTooLargeError: 413,
        UnsupportedMediaTypeError: 415,
        InvalidRequestError: 422,
        AuthenticationError: 401,
        ScopeError: 403,
        NotFoundError: 404,
        GoneError: 410,
        ConflictError: 409,
        IdempotencyKeyReusedError: 422,
        RateLimitedError: 429,
        UnavailableError: 503,
        SmartTextGenError: 500,
    }
)
"""The status of a class and of those below it that have none of their own."""

TYPES: Mapping[int, str] = MappingProxyType(
    {
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        409: "conflict_error",
        410: "not_found_error",
        429: "rate_limit_error",
        500: "api_error",
        503: "unavailable_error",
    }
)
"""The ``type`` of an error by its status; any other is ``invalid_request_error``."""

NO_FIELDS = frozenset({"[key]", *PROMPT_TAGS, *FORMAT_TAGS})
"""Parts of pydantic's paths that stand for its own choices, and for nothing in the body."""

FRAMEWORK_CODES: Mapping[int, str] = MappingProxyType(
    {400: "malformed_request", 404: "not_found", 405: "method_not_allowed", 413: "payload_too_large",
     415: "unsupported_media_type"}
)  # fmt: skip


def status_of(error: SmartTextGenError) -> int:
    """The HTTP status of an error."""
    return next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)


def error_response(status: int, code: str, message: str, param: str | None = None) -> Response:
    """The one shape of an error, as an answer."""
    return Response(_body(status, code, message, param).model_dump_json(), status, mimetype="application/json")


def error_body(error: SmartTextGenError) -> ErrorBody:
    """The same shape, where the answer has begun already."""
    return _body(status_of(error), error.code, error.message, error.param)


def _body(status: int, code: str, message: str, param: str | None) -> ErrorBody:
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return ErrorBody(error=ErrorDetail(message=message, type=kind, param=param, code=code))


def of_error(error: SmartTextGenError) -> Response:
    """The answer to an error of ours."""
    status = status_of(error)
    message = error.message
    if status == 500:
        log.error("request failed", code=error.code, exc_info=error)
        message = "Something went wrong on our side."
    response = error_response(status, error.code, message, error.param)
    response.headers.update(_headers(error, status))
    return response


def _headers(error: SmartTextGenError, status: int) -> dict[str, str]:
    match error:
        case AuthenticationError():
            return {"WWW-Authenticate": 'Bearer realm="smarttextgen"'}
        case RateLimitedError():
            return {"Retry-After": str(error.retry_after_s), **exceeded_headers(error)}
        case UnavailableError():
            return {"Retry-After": str(error.retry_after_s)}
        case IdempotencyInProgressError():
            return {"Retry-After": "1"}
    return {"x-should-retry": "false"} if status == 409 else {}


def of_validation(error: ValidationError) -> Response:
    """The answer to what pydantic found: the first of it, with the field's path. Never the value, it may be a prompt."""
    first = error.errors(include_url=False, include_input=False)[0]
    path = ".".join(str(part) for part in first["loc"] if part not in NO_FIELDS)
    param = path or str(first.get("ctx", {}).get("param", "")) or None
    where = f"{param[:200]}: " if param else ""
    code = InvalidCursorError.code if param == "cursor" else ValidationFailedError.code
    says = "May not hold a NUL character" if first.get("ctx", {}).get("pattern") == ANY_TEXT else first["msg"]
    return error_response(422, code, f"{where}{says}.", param and param[:200])


def _of_http(error: HTTPException) -> Response:
    """What Flask and werkzeug raise: no such route, no such method, a body over the limit."""
    if isinstance(error.response, Response):  # aborted with an answer of ours
        return error.response
    status = error.code or 500
    code = FRAMEWORK_CODES.get(status, "http_error")
    message = HTTPStatus(status).phrase + "."
    response = error_response(status, code, message)
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        response.headers["Allow"] = ", ".join(sorted(error.valid_methods))
    return response


def _of_anything(error: Exception) -> Response:
    log.error("request failed", code="internal_error", exc_info=error)
    return error_response(500, "internal_error", "Something went wrong on our side.")


def register_errors(app: Flask) -> None:
    """Every error of every route becomes our body; nothing else reaches a client."""
    app.register_error_handler(SmartTextGenError, of_error)
    app.register_error_handler(HTTPException, _of_http)
    app.register_error_handler(Exception, _of_anything)
