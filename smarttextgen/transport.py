"""One request and its retries: httpx below, the error tree above.

Reads, deletes and cancels can be repeated by nature; a POST that creates carries an Idempotency-Key that stays the same
over its retries, so the service answers a repeated one from its memory. What can be neither (an answer that holds a new
key is kept nowhere) is ``repeatable=False`` and is only sent again where it cannot have been handled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx
import tenacity

from smarttextgen.errors import APIError, ConfigurationError, ConnectionFailedError, error_class

NOTHING_ACCEPTED = frozenset({429, 503})
NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
LONGEST_RETRY_AFTER_S = 60.0  # a service that asks for more (a day's tokens are used up) is not waited for
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 8.0
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class Transport:
    """Sends requests to ``base_url``; retries what may succeed the next time, up to ``max_retries`` times."""

    def __init__(
        self, base_url: str, api_key: str | None, timeout: float, max_retries: int, http: httpx.BaseTransport | None
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError(f"{base_url!r} is not an http(s) URL")
        self.timeout = timeout
        self._max_retries = max_retries
        self._http = httpx.Client(
            base_url=base_url.rstrip("/"),
            headers={"User-Agent": "smarttextgen-python", **({"X-API-Key": api_key} if api_key else {})},
            transport=http,
            trust_env=parts.hostname not in LOOPBACK,  # a proxy from the environment cannot reach our own machine
        )

    def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        repeatable: bool = True,
        extra_time: float = 0.0,
        retries: int | None = None,
    ) -> httpx.Response:
        """Return the 2xx answer. ``extra_time``: seconds that the service was asked to take (a long poll).

        Raises: APIError (the subclass for its status), ConnectionFailedError.
        """
        request = self._http.build_request(
            method,
            path,
            json=json,
            params={name: value for name, value in (params or {}).items() if value is not None},
            headers={"Idempotency-Key": idempotency_key} if idempotency_key else {},
            timeout=httpx.Timeout(self.timeout, read=self.timeout + extra_time),
        )
        for attempt in self._attempts(self._max_retries if retries is None else retries, repeatable):
            with attempt:
                return self._send(request)
        raise AssertionError("tenacity raises or returns")  # pragma: no cover

    def close(self) -> None:
        self._http.close()

    def _attempts(self, retries: int, repeatable: bool) -> tenacity.Retrying:
        return tenacity.Retrying(
            stop=tenacity.stop_after_attempt(1 + retries),
            wait=_pause,
            retry=tenacity.retry_if_exception(lambda error: may_be_retried(error, repeatable)),
            reraise=True,
        )

    def _send(self, request: httpx.Request) -> httpx.Response:
        try:
            response = self._http.send(request)
        except httpx.TransportError as error:
            address = f"{request.url.scheme}://{request.url.netloc.decode()}"
            raise ConnectionFailedError(
                f"No answer from {address}: {str(error) or type(error).__name__}",
                may_have_arrived=not isinstance(error, NEVER_SENT),
            ) from error
        if response.is_success:
            return response
        raise _api_error(response)


def may_be_retried(error: BaseException, repeatable: bool = True) -> bool:
    """Whether the same request may succeed if it is sent again, and does no harm."""
    if isinstance(error, ConnectionFailedError):
        return repeatable or not error.may_have_arrived
    if not isinstance(error, APIError) or not error.should_retry:
        return False
    if (error.retry_after or 0.0) > LONGEST_RETRY_AFTER_S:
        return False
    if error.status in NOTHING_ACCEPTED:
        return True
    # 409 with Retry-After: our first try is still being handled there; ask again for its answer.
    return repeatable and (error.status in (502, 504) or (error.status == 409 and error.retry_after is not None))


_backoff = tenacity.wait_random_exponential(multiplier=FIRST_PAUSE_S, max=LONGEST_PAUSE_S)


def _pause(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, APIError) else None
    return max(asked or 0.0, _backoff(state))


def _api_error(response: httpx.Response) -> APIError:
    try:
        body = response.json()["error"]
        message, code, param = body.get("message"), body.get("code"), body.get("param")
    except (ValueError, KeyError, TypeError, AttributeError):
        message = code = param = None  # a proxy's page, not the service's
    return error_class(response.status_code)(
        message or f"The service answered {response.status_code} {response.reason_phrase}",
        status=response.status_code,
        code=code,
        param=param,
        request_id=response.headers.get("X-Request-Id"),
        retry_after=retry_after(response),
        should_retry=response.headers.get("x-should-retry") != "false",
    )


def retry_after(response: httpx.Response) -> float | None:
    """The Retry-After header in seconds (the service sends no dates)."""
    try:
        return float(response.headers["Retry-After"])
    except (KeyError, ValueError):
        return None
