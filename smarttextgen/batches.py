"""Batches: many prompts in one request, and their results as they end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Unpack

from smarttextgen.decode import decode
from smarttextgen.errors import APIError, WaitTimeoutError
from smarttextgen.transport import Transport
from smarttextgen.types import BATCH_ENDED, Batch, BatchRequest, BatchResult, GenerateOptions, Page, ResultPage
from smarttextgen.waiting import through_outages
from smarttextgen.wire import given, page_of, segment, walk

PATH = "/api/batches"
LARGEST_PAGE = 1000
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 2.0  # between looks at a batch that has nothing new


class Batches:
    """``client.batches``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self,
        prompts: Iterable[str | Sequence[int] | BatchRequest],
        *,
        idempotency_key: str | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Batch:
        """Queue many prompts, all or none. An item is a prompt (text or token ids) or a request of its own ({custom_id,
        prompt, …}).

        ``options`` hold for plain prompts, and for requests where these say nothing. Repeats with the same
        ``idempotency_key`` make no second batch.
        """
        items = list(prompts)
        body: dict[str, Any] = given(options)
        if any(isinstance(item, Mapping) for item in items):
            body["requests"] = [given(item) if isinstance(item, Mapping) else {"prompt": item} for item in items]
        else:
            body["prompts"] = items
        return decode(Batch, self._transport.create("/api/generate_batch", body, idempotency_key))

    def get(self, batch_id: str) -> Batch:
        """The batch as it is. Raises: NotFoundError, GoneError."""
        return decode(Batch, self._transport.request("GET", _path(batch_id)).json())

    def page(self, *, cursor: str | None = None, limit: int = 20) -> Page[Batch]:
        """One page of batches, newest first."""
        return page_of(Batch, self._transport.request("GET", PATH, params={"cursor": cursor, "limit": limit}).json())

    def list(self) -> Iterator[Batch]:
        """All batches, newest first, fetched page by page."""
        return walk(lambda cursor: self.page(cursor=cursor, limit=100))

    def wait(
        self, batch_id: str, timeout: float | None = None, *, on_update: Callable[[Batch], None] | None = None
    ) -> Batch:
        """Return the batch once all of it has ended. Survives restarts of the service; ``on_update`` sees each look.

        Raises: WaitTimeoutError after ``timeout`` seconds (None: never); NotFoundError, GoneError.
        """
        clock = _Looks(batch_id, timeout)
        batch = self.get(batch_id)
        while True:
            if on_update is not None:
                on_update(batch)
            if batch.ended:
                return batch
            clock.pause()
            batch = clock.patiently(lambda: self.get(batch_id))

    def results(
        self, batch_id: str, *, cursor: str | None = None, follow: bool = True, timeout: float | None = None
    ) -> Iterator[BatchResult]:
        """Each job's result once, in the order in which they end, until all have ended; ``cursor``: only those after it.

        Survives restarts of the service. Without ``follow`` only what is there now. Raises: WaitTimeoutError after
        ``timeout`` seconds (None: never); NotFoundError, GoneError; InvalidRequestError for a cursor of another batch.
        """
        for page in self.result_pages(batch_id, cursor=cursor, follow=follow, timeout=timeout):
            yield from page.data

    def result_pages(
        self, batch_id: str, *, cursor: str | None = None, follow: bool = True, timeout: float | None = None
    ) -> Iterator[ResultPage]:
        """The same in the pieces in which they come, none of them empty: for those who write each down at once."""
        clock = _Looks(batch_id, timeout)
        page = self.result_page(batch_id, cursor=cursor)
        while page.data or (follow and not page.ended):
            if page.data:
                yield page
                clock.rewind()
            if follow and not page.ended and len(page.data) < LARGEST_PAGE:
                clock.pause()
            after = page.next_cursor
            page = clock.patiently(lambda: self.result_page(batch_id, cursor=after))  # noqa: B023  called at once

    def result_page(self, batch_id: str, *, cursor: str | None = None, limit: int = LARGEST_PAGE) -> ResultPage:
        """The results that are there now, after ``cursor``, at most ``limit`` (up to 1000)."""
        response = self._transport.request("GET", _path(batch_id, "results"), params={"cursor": cursor, "limit": limit})
        # What a line says is believed, and a last line without its end is not: an answer that was cut short loses none.
        lines = response.text.split("\n")[:-1]
        try:
            results = tuple(decode(BatchResult, json.loads(line)) for line in lines)
        except ValueError as error:
            raise APIError("The answer holds no results of SmartTextGen. Is the URL right?", status=200) from error
        ended = response.headers.get("X-Batch-Status") in BATCH_ENDED
        return ResultPage(results, results[-1].cursor if results else cursor, ended)

    def cancel(self, batch_id: str) -> Batch:
        """Cancel what has not ended; what runs may still read ``running`` until its workers have stopped it.

        Raises: ConflictError when all of it had ended, NotFoundError.
        """
        return decode(Batch, self._transport.request("POST", _path(batch_id, "cancel")).json())

    def delete(self, batch_id: str) -> None:
        """Delete a batch with its jobs and results; what runs is stopped. Raises: NotFoundError."""
        self._transport.request("DELETE", _path(batch_id))


def _path(batch_id: str, action: str = "") -> str:
    return f"{PATH}/{segment(batch_id)}" + (f"/{action}" if action else "")


class _Looks:
    """When to look at a batch again, and for how long."""

    def __init__(self, batch_id: str, timeout: float | None) -> None:
        self._batch_id, self._timeout = batch_id, timeout
        self._deadline = float("inf") if timeout is None else time.monotonic() + timeout
        self._next = FIRST_PAUSE_S
        self.patiently = through_outages(self._deadline)

    def rewind(self) -> None:
        """There was something new."""
        self._next = FIRST_PAUSE_S

    def pause(self) -> None:
        """Raises: WaitTimeoutError."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise WaitTimeoutError(self._batch_id, self._timeout or 0.0)
        time.sleep(min(self._next, left))
        self._next = min(self._next * 2, LONGEST_PAUSE_S)
