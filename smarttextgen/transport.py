"""One request and its retries: httpx below, the error tree above.

Reads, deletes and cancels can be repeated by nature; a POST that creates carries an Idempotency-Key that stays the same
over its retries, so the service answers a repeated one from its memory. What can be neither (an answer that holds a new
key is kept nowhere) is ``repeatable=False`` and is only sent again where it cannot have been handled.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
        self.max_retries = max_retries
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
        for attempt in self._attempts(self.max_retries if retries is None else retries, repeatable):
            with attempt:
                return self._send(request)
        raise AssertionError("tenacity raises or returns")  # pragma: no cover

    def create(self, path: str, body: Any, idempotency_key: str | None) -> Any:
        """POST what makes something, under the key given or one of its own. Returns the answer's JSON."""
        return self.request("POST", path, json=body, idempotency_key=idempotency_key or uuid.uuid4().hex).json()

    @contextmanager
    def stream(self, path: str, headers: Mapping[str, str], silence: float) -> Iterator[httpx.Response]:
        """GET a 2xx answer whose body is still to be read, of which no part may take over ``silence`` seconds.

        Tried once. Raises, also while the body is read: APIError, ConnectionFailedError.
        """
        timeout = httpx.Timeout(min(self.timeout, silence), read=silence)
        request = self._http.build_request("GET", path, headers=dict(headers), timeout=timeout)
        response = self._send(request, stream=True)
        try:
            yield response
        except httpx.TransportError as error:
            raise _no_answer(request, error) from error
        finally:
            response.close()

    def close(self) -> None:
        self._http.close()

    def _attempts(self, retries: int, repeatable: bool) -> tenacity.Retrying:
        return tenacity.Retrying(
            stop=tenacity.stop_after_attempt(1 + retries),
            wait=pause,
            retry=tenacity.retry_if_exception(lambda error: may_be_retried(error, repeatable)),
            reraise=True,
        )

    def _send(self, request: httpx.Request, *, stream: bool = False) -> httpx.Response:
        try:
            response = self._http.send(request, stream=stream)
            if not response.is_success:
                response.read()
        except httpx.TransportError as error:
            raise _no_answer(request, error) from error
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


def pause(state: tenacity.RetryCallState) -> float:
    """Seconds until the next try: growing, random, and not less than the service asked for."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, APIError) else None
    return max(asked or 0.0, _backoff(state))


def _no_answer(request: httpx.Request, error: httpx.TransportError) -> ConnectionFailedError:
    address = f"{request.url.scheme}://{request.url.netloc.decode()}"
    return ConnectionFailedError(
        f"No answer from {address}: {str(error) or type(error).__name__}",
        may_have_arrived=not isinstance(error, NEVER_SENT),
    )


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
