"""The OpenAPI document: what pydantic says of the models, and what each route may answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from flask_openapi3.models.info import Info
from flask_openapi3.openapi import OpenAPI
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from shared.schemas import Answer, ErrorBody

API_VERSION = "1.0.0"
"""Of the contract that clients see."""

REF = "#/components/schemas/{model}"

DESCRIPTION = """
Submit a prompt, get a job id, poll or wait for the end.

**Keys.** Every `/api` route needs an API key: `X-API-Key: K` or `Authorization: Bearer K`.

**Idempotency.** `POST /api/generate` and `POST /api/generate_batch` take an `Idempotency-Key` header (1 to 255 printable
ASCII characters, quoted or bare). For 24 hours the same key with the same body gets the first answer again, with
`Idempotent-Replayed: true`; with another body it is a 422 `idempotency_key_reused`; while the first request is still
waiting for its job, a 409. `POST /api/admin/keys` and its `rotate`, `POST /api/webhooks` and its `rotate_secret` refuse the
header with a 400, because their answer holds a secret.

**Waiting.** `?wait=N`, or `Prefer: wait=N` on a POST or PUT, answers with the finished job if it ends within N seconds.

**Tracing.** `X-Request-Id` (at most 128 of `A-Z a-z 0-9 . _ : -`) is taken over or made, and always returned.
`traceparent` is taken over, and returned: the same, or that of our span in its trace.

**Strictness.** Bodies are UTF-8 JSON objects with the media type `application/json`. Unknown fields and parameters, near
types (`"100"` or `true` for an integer; `100.0` is one, as in JSON Schema), NUL characters, and parameters given twice are refused with a 422 that names the
field; `NaN`, and a name that occurs twice in an object, with a 400.

**Limits.** Submits count against the key's requests a minute, a batch as one: `x-ratelimit-*-requests`, `RateLimit` and
`RateLimit-Policy` say what is left; for a key with `tokens_per_day` so do `x-ratelimit-*-tokens`, of the day (UTC).
""".strip()

SECURITY_SCHEMES: dict[str, Any] = {
    "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {"type": "http", "scheme": "bearer"},
}

INVALID = (
    "A field or parameter is not valid: `validation_error`, `model_not_found`, `adapter_not_found`, "
    "`context_length_exceeded`, `invalid_cursor`, `idempotency_key_reused`."
)
ERROR_TEXT: Mapping[int, tuple[str, str, str]] = {
    400: ("Not well-formed: `malformed_request`, `malformed_json`, `unknown_mode`, `invalid_cursor` of a stream.", "malformed_json", "invalid_request_error"),
    401: ("No valid API key.", "invalid_api_key", "authentication_error"),
    403: ("The key lacks the scope.", "insufficient_scope", "permission_error"),
    404: ("There is no such object for this key.", "not_found", "not_found_error"),
    408: ("The body did not arrive in time.", "request_timeout", "invalid_request_error"),
    409: ("In conflict: `job_already_finished`, `batch_already_finished`, `job_exists`, `job_not_retryable`, `idempotency_in_progress`, `webhook_limit`, `webhook_endpoint_fixed`, `webhook_endpoint_disabled`.",
          "job_already_finished", "conflict_error"),
    410: ("The object's retention is over: `gone`; or that of a job's events: `stream_gone`.", "gone", "not_found_error"),
    413: ("The body is too large.", "payload_too_large", "invalid_request_error"),
    415: ("The body is not application/json.", "unsupported_media_type", "invalid_request_error"),
    422: (INVALID, "validation_error", "invalid_request_error"),
    429: ("A limit of the key: `rate_limited`, `queue_limit`, `stream_limit`.", "rate_limited", "rate_limit_error"),
    500: ("Our fault.", "internal_error", "api_error"),
    503: ("Redis is away, or the queue or the process is full; nothing was accepted.", "store_unavailable", "unavailable_error"),
}  # fmt: skip

_TEXT = {"schema": {"type": "string"}}
_HEADERS: Mapping[str, dict[str, Any]] = {
    "X-Request-Id": {"description": "The request's id.", **_TEXT},
    "Location": {"description": "Where the object is.", **_TEXT},
    "Retry-After": {"description": "Seconds until it makes sense to ask again.", "schema": {"type": "integer"}},
    "X-Next-Cursor": {"description": "Where to go on after this page; always there.", **_TEXT},
    "X-Batch-Status": {"description": "`in_progress`, `canceling`, `completed` or `canceled`.", **_TEXT},
    "ETag": {"description": "Changes whenever the body does.", **_TEXT},
    "WWW-Authenticate": {"description": "How to authenticate.", **_TEXT},
    "Idempotent-Replayed": {"description": "`true` on a replay of the first answer.", **_TEXT},
    "x-should-retry": {"description": "`false` where the same request would fail again.", **_TEXT},
    "x-ratelimit-limit-requests": {"description": "The limit, requests a minute.", "schema": {"type": "integer"}},
    "x-ratelimit-remaining-requests": {"description": "What is left of it.", "schema": {"type": "integer"}},
    "x-ratelimit-reset-requests": {"description": "When it starts anew, such as `42s`.", **_TEXT},
    "x-ratelimit-limit-tokens": {"description": "The limit, tokens a day.", "schema": {"type": "integer"}},
    "x-ratelimit-remaining-tokens": {"description": "What is left of it.", "schema": {"type": "integer"}},
    "x-ratelimit-reset-tokens": {"description": "When it starts anew, such as `3600s`.", **_TEXT},
    "RateLimit": {"description": "What is left of the limit.", **_TEXT},
    "RateLimit-Policy": {"description": "The limit.", **_TEXT},
}
_LIMITS = (
    "RateLimit",
    "RateLimit-Policy",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
)
_HEADERS_OF: Mapping[int, tuple[str, ...]] = {
    201: ("Location",),
    202: ("Location", "Retry-After", "Idempotent-Replayed", *_LIMITS),
    304: ("ETag",),
    401: ("WWW-Authenticate",),
    409: ("Retry-After", "x-should-retry"),
    429: ("Retry-After", *_LIMITS),
    503: ("Retry-After",),
}


@dataclass(frozen=True, slots=True)
class Media:
    """A body that is not JSON. ``schema``: of one item, where the body is a sequence of them. ``headers``: beyond those of its
    status. ``part``: a model that the schema names."""

    media_type: str
    description: str
    schema: Mapping[str, Any]
    example: str
    headers: tuple[str, ...] = ()
    part: type[Answer] | None = None


def documented_responses(
    answers: Mapping[int, type[Answer] | Media | None], errors: Sequence[int], *, links: Sequence[str]
) -> dict[str | int | HTTPStatus, Any]:
    """OpenAPI response objects. ``links``: see ``Route``."""
    found: dict[str | int | HTTPStatus, Any] = {}
    for status, model in answers.items():
        if isinstance(model, Media):
            found[status] = _response(model.description, status, None)
            found[status]["content"] = {model.media_type: {"schema": dict(model.schema), "example": model.example}}
            found[status]["headers"] |= {name: _HEADERS[name] for name in model.headers}
            continue
        found[status] = _response(HTTPStatus(status).phrase, status, model)
        if links and model is not None:
            found[status]["links"] = dict(_link(link) for link in links)
    for status in errors:
        if status not in found:
            text, code, kind = ERROR_TEXT[status]
            example = {"error": {"message": HTTPStatus(status).phrase, "type": kind, "param": None, "code": code}}
            found[status] = _response(text, status, ErrorBody, example)
    return found


def _link(link: str) -> tuple[str, dict[str, Any]]:
    operation, parameter = link.split(":")
    return operation, {"operationId": operation, "parameters": {parameter: "$response.body#/id"}}


def _response(text: str, status: int, model: type[Answer] | None, example: Any = None) -> dict[str, Any]:
    names = ("X-Request-Id", *_HEADERS_OF.get(status, ()))
    response: dict[str, Any] = {"description": text, "headers": {name: _HEADERS[name] for name in names}}
    if model is not None:
        content: dict[str, Any] = {"schema": {"$ref": REF.format(model=_component(model))}}
        response["content"] = {"application/json": content | ({"example": example} if example else {})}
    return response


def _component(model: type[BaseModel]) -> str:
    # Pydantic names the definition of a generic model so: Page[JobView] becomes Page_JobView_.
    return model.__name__.replace("[", "_").replace("]", "_")


class DocumentedApp(OpenAPI):
    """flask-openapi3, whose document takes its component schemas from pydantic unchanged: the library's own ``Schema``
    model drops the keywords that it does not know, such as ``propertyNames`` and ``examples``."""

    def __init__(self, import_name: str) -> None:
        super().__init__(
            import_name,
            info=Info(title="SmartTextGen", version=API_VERSION, description=DESCRIPTION),
            security_schemes=SECURITY_SCHEMES,
            validation_error_model=ErrorBody,
            doc_ui=False,
            static_folder=None,
        )
        self._models: list[tuple[type[BaseModel], JsonSchemaMode]] = [(ErrorBody, "serialization")]
        self._rendered: tuple[tuple[list[str], list[str] | None], str] | None = None

    def describe(self, model: type[BaseModel], mode: JsonSchemaMode) -> None:
        """A model whose schema the document needs."""
        if (model, mode) not in self._models:
            self._models.append((model, mode))

    def document(self, models: Sequence[str], adapters: Sequence[str] | None) -> str:
        """The whole document as JSON. ``models``, ``adapters``: names that a client may give now (None: any). Kept until they
        change."""
        names = (list(models), None if adapters is None else list(adapters))
        if self._rendered is None or self._rendered[0] != names:
            self._rendered = (names, json.dumps(self._render(*names), ensure_ascii=False))
        return self._rendered[1]

    def _render(self, models: list[str], adapters: list[str] | None) -> dict[str, Any]:
        schemas: dict[str, Any] = models_json_schema(self._models, ref_template=REF)[1]["$defs"]
        for name in ("GenerateRequest", "BatchRequest", "BatchItem"):
            fields = schemas[name]["properties"]
            fields["model"]["anyOf"][0]["enum"] = models
            if adapters:
                fields["adapter"]["anyOf"][0]["enum"] = adapters
            elif adapters is not None:
                del fields["adapter"]["anyOf"][0]
        return {**self.api_doc, "components": {**self.api_doc["components"], "schemas": schemas}}
