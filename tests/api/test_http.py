"""What holds for every route: errors, request ids, headers for browsers."""

from __future__ import annotations

import re

import pytest
import structlog

from api.errors import STATUS, status_of
from shared import errors
from tests.api.house import House, build, error_of


def test_no_such_route(house: House) -> None:
    for path in ("/nope", "/api", "/api/", "/api/generate/", "//api/generate", "/api//generate", "/api/../x"):
        response = house.call("GET", path)
        assert (response.status_code, error_of(response)["code"]) == (404, "not_found"), path


def test_no_such_method(house: House) -> None:
    for method, path, allowed in (
        ("GET", "/api/generate", {"POST", "OPTIONS"}),
        ("PATCH", "/api/jobs/a", {"GET", "HEAD", "PUT", "DELETE", "OPTIONS"}),
        ("TRACE", "/health", {"GET", "HEAD", "OPTIONS"}),
        ("POST", "/openapi.json", {"GET", "HEAD", "OPTIONS"}),
    ):
        response = house.call(method, path, key=None)
        assert (response.status_code, error_of(response)["code"]) == (405, "method_not_allowed")
        assert set(response.headers["Allow"].split(", ")) == allowed


def test_a_bug_is_a_500_that_tells_nothing(house: House) -> None:
    def bug(*_args: object) -> None:
        raise RuntimeError("the password is swordfish")

    house.store.get = bug  # type: ignore[method-assign,assignment]
    with structlog.testing.capture_logs() as logs:
        response = house.call("GET", "/api/jobs/a")
    error = error_of(response)
    assert (response.status_code, error["code"], error["type"]) == (500, "internal_error", "api_error")
    assert "swordfish" not in response.text
    assert any(line["log_level"] == "error" and "exc_info" in line for line in logs)


def test_every_error_has_a_status() -> None:
    found = [getattr(errors, name) for name in dir(errors) if name.endswith("Error")]
    assert all(status_of(error()) in set(STATUS.values()) for error in found)
    expected = {
        errors.UnknownModeError: 400, errors.AuthenticationError: 401, errors.ScopeError: 403, errors.NotFoundError: 404,
        errors.JobAlreadyFinishedError: 409, errors.GoneError: 410, errors.IdempotencyKeyReusedError: 422,
        errors.QueueLimitError: 429, errors.QueueFullError: 503, errors.GenerationError: 500,
    }  # fmt: skip
    assert {error: status_of(error()) for error in expected} == expected


@pytest.mark.parametrize("given", ["abc-123", "A.b_c:d-e", "x" * 128])
def test_a_request_id_is_taken_over(house: House, given: str) -> None:
    for path in ("/health", "/nope", "/api/jobs/nope"):
        assert house.call("GET", path, headers={"X-Request-Id": given}).headers["X-Request-Id"] == given


@pytest.mark.parametrize("given", [None, "", "x" * 129, "a b", "a\xe9", "<script>", 'a"b'])
def test_an_unsafe_request_id_is_replaced(house: House, given: str | None) -> None:
    headers = {} if given is None else {"X-Request-Id": given}
    made = house.call("GET", "/health", headers=headers).headers["X-Request-Id"]
    assert re.fullmatch(r"req_[0-9a-f]{32}", made)


def test_the_request_id_reaches_log_job_and_trace(house: House) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    seen: list[dict] = []

    def keep(_logger: object, _method: str, event: dict) -> dict:
        seen.append(dict(event))
        raise structlog.DropEvent

    structlog.configure(processors=[structlog.contextvars.merge_contextvars, keep])
    try:
        headers = {"X-Request-Id": "trace-me", "traceparent": trace}
        house.call("POST", "/api/generate", json={"prompt": "a secret prompt"}, headers=headers)
        house.call("GET", "/api/history/ann", headers={"traceparent": "00-" + "0" * 32 + "-00f067aa0ba902b7-01"})
    finally:
        structlog.reset_defaults()
    first, second = (line for line in seen if line["event"] == "request")
    assert (first["request_id"], first["traceparent"], first["tenant"]) == ("trace-me", trace, "shop")
    assert "traceparent" not in second
    assert "ann" not in str(second), "the rule is logged, and not the path"
    assert "secret" not in str(first)
    assert house.store.get(house.store.submitted[0][0]).request_id == "trace-me"


def test_nothing_of_a_request_is_on_the_threads_later_lines(house: House) -> None:
    for path, status in (("/api/modes", 200), ("/api/jobs/nope", 404), ("/nope", 404)):
        assert house.call("GET", path).status_code == status
        assert structlog.contextvars.get_contextvars() == {}


def test_headers_for_browsers(house: House) -> None:
    for path in ("/health", "/nope", "/api/modes", "/openapi.json"):
        headers = house.call("GET", path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert headers["Referrer-Policy"] == "no-referrer"
    assert house.call("GET", "/health").status_code == 200, "and no redirect to https"


def test_other_origins_are_off_by_default(house: House) -> None:
    headers = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
    for method in ("GET", "OPTIONS"):
        response = house.call(method, "/api/modes", headers=headers)
        assert not [name for name, _ in response.headers if name.startswith("Access-Control")]


def test_other_origins_that_are_configured_may_call() -> None:
    house = build(cors_origins="https://shop.example, https://two.example")
    preflight = house.call(
        "OPTIONS", "/api/generate", key=None,
        headers={"Origin": "https://shop.example", "Access-Control-Request-Method": "POST",
                 "Access-Control-Request-Headers": "X-API-Key, Content-Type, Idempotency-Key"},
    )  # fmt: skip
    assert preflight.status_code == 200
    assert preflight.headers["Access-Control-Allow-Origin"] == "https://shop.example"
    assert {"POST", "PATCH"} <= set(preflight.headers["Access-Control-Allow-Methods"].split(", "))
    assert "idempotency-key" in preflight.headers["Access-Control-Allow-Headers"].lower()
    call = house.call("GET", "/api/jobs/nope", headers={"Origin": "https://two.example"})
    assert call.headers["Access-Control-Allow-Origin"] == "https://two.example"
    assert {"Retry-After", "X-Next-Cursor"} <= set(call.headers["Access-Control-Expose-Headers"].split(", "))
    other = house.call("GET", "/api/modes", headers={"Origin": "https://evil.example"})
    assert "Access-Control-Allow-Origin" not in other.headers
