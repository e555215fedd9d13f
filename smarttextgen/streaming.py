"""Following a job's events, over as many connections as it takes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from typing import Any, Final

import httpx
import httpx_sse
import tenacity

from smarttextgen.decode import decode
from smarttextgen.errors import (
    APIError,
    ConnectionFailedError,
    RateLimitedError,
    ServerError,
    WaitTimeoutError,
    error_class,
)
from smarttextgen.events import Ended, Output, Queued, Restarted, Started, StreamEvent
from smarttextgen.transport import Transport, may_be_retried, pause
from smarttextgen.types import ENDED, Job
from smarttextgen.wire import segment

LONGEST_SILENCE_S = 40.0  # the service pings every 15 s; two missed pings are a dead connection
FINAL_CODES: Final = {"not_found": 404, "stream_gone": 410}  # of error events; any other is a reason to connect again

_RECORDS: dict[str, Callable[[Any], StreamEvent]] = {
    "queued": lambda data: decode(Queued, data),
    "started": lambda data: decode(Started, data),
    "restarted": lambda data: decode(Restarted, data),
    "output": lambda data: decode(Output, data),
    **{status: lambda data: Ended(data["id"], decode(Job, data["job"])) for status in ENDED},
}


class JobStream:
    """One job's events from ``cursor`` on, each once, in order, up to its end.

    The first connection is tried as often as any request. Once there was one, the service may be away or busy for as
    long as ``timeout`` seconds allow (None: for ever).
    """

    def __init__(self, transport: Transport, job_id: str, cursor: int | None, timeout: float | None) -> None:
        self._transport, self._job_id, self._timeout = transport, job_id, timeout
        self._cursor = cursor
        self._deadline = float("inf") if timeout is None else time.monotonic() + timeout
        self._connected = False

    def events(self) -> Generator[StreamEvent, None, None]:
        """Raises: WaitTimeoutError; the subclass of APIError for an answer that another try will not change."""
        while True:
            event, following = self._retrying()(self._connect)
            if event is None:
                return
            # A connection that got on before it was cut ends an outage: the next one has a patience of its own.
            with closing(following), suppress(ConnectionFailedError, ServerError):
                yield event
                yield from following
                return

    def _retrying(self) -> tenacity.Retrying:
        return tenacity.Retrying(
            retry=tenacity.retry_if_exception(self._may_pass),
            stop=self._enough,
            wait=lambda state: min(pause(state), max(0.0, self._left())),
            reraise=True,
        )

    def _may_pass(self, error: BaseException) -> bool:
        if isinstance(error, RateLimitedError):
            # A connection of ours that was cut may be counted until the service has noticed.
            return self._connected or may_be_retried(error)
        return isinstance(error, (ConnectionFailedError, ServerError))

    def _enough(self, state: tenacity.RetryCallState) -> bool:
        return not self._connected and state.attempt_number > self._transport.max_retries

    def _left(self) -> float:
        return self._deadline - time.monotonic()

    def _connect(self) -> tuple[StreamEvent | None, Generator[StreamEvent, None, None]]:
        """A connection that has brought a new event: that one (None: there will be no more), and what follows.

        Raises: WaitTimeoutError, APIError, ConnectionFailedError.
        """
        if self._left() <= 0:
            raise WaitTimeoutError(self._job_id, self._timeout or 0.0)
        following = self._read()
        return next(following, None), following

    def _read(self) -> Generator[StreamEvent, None, None]:
        """New events of one connection; returns after the last of the job. Raises where it ends before that."""
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity", "Cache-Control": "no-store"}
        if self._cursor is not None:
            headers["Last-Event-ID"] = str(self._cursor)
        path = f"/api/jobs/{segment(self._job_id)}/stream"
        with self._transport.stream(path, headers, max(0.01, min(LONGEST_SILENCE_S, self._left()))) as response:
            self._connected = True
            if response.status_code == httpx.codes.NO_CONTENT:  # the cursor is the last event's
                return
            response.stream = _UntilDeadline(response.stream, self._check_deadline)
            for sse in _events_of(response):
                event = _decode(sse)
                if event is None or (self._cursor is not None and event.id <= self._cursor):
                    continue
                self._cursor = event.id
                yield event
                if isinstance(event, Ended):
                    return
        raise ConnectionFailedError(f"The stream of {self._job_id} was cut off")

    def _check_deadline(self) -> None:
        if self._left() <= 0:
            raise WaitTimeoutError(self._job_id, self._timeout or 0.0)


class _UntilDeadline(httpx.SyncByteStream):
    """A body that looks at the clock with each piece: a ping is no event, but it is a piece."""

    def __init__(self, body: object, check: Callable[[], None]) -> None:
        assert isinstance(body, httpx.SyncByteStream)
        self._body, self._check = body, check

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._body:
            self._check()
            yield piece

    def close(self) -> None:
        self._body.close()


def _events_of(response: httpx.Response) -> Iterator[httpx_sse.ServerSentEvent]:
    if not response.headers.get("Content-Type", "").startswith("text/event-stream"):
        raise APIError("The answer is not a stream of SmartTextGen. Is the URL right?", status=response.status_code)
    return httpx_sse.EventSource(response).iter_sse()


def _decode(sse: httpx_sse.ServerSentEvent) -> StreamEvent | None:
    """The event; None for what is none (``retry:`` alone) and for kinds of tomorrow.

    Raises: APIError for ``error`` events, of the class that its code stands for.
    """
    if not sse.data or sse.event not in {*_RECORDS, "error"}:
        return None
    try:
        data = sse.json()
        if sse.event == "error":
            raise _error(data["error"])
        number = int(sse.id)
        return _RECORDS[sse.event]({"id": number, "job": data} if sse.event in ENDED else {**data, "id": number})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise APIError(f"The stream holds what is no event: {json.dumps(sse.data[:80])}", status=200) from error


def _error(body: dict[str, Any]) -> APIError:
    status = FINAL_CODES.get(body["code"], 503)
    return error_class(status)(
        body.get("message") or body["code"], status=status, code=body["code"], param=body.get("param")
    )
