"""Batches: submitting, reading, results, cancel, delete."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from flask import Response

from api.documents import Media
from api.identity import caller
from api.limits import limit_headers
from api.patience import patience, say_applied
from api.rendering import answer
from api.routing import Route
from api.services import services
from api.submission import idempotency_of, new_id, replay
from api.waiting import Expectation
from shared.errors import InvalidRequestError, UnavailableError
from shared.job import JobRef
from shared.schemas import (
    Answer,
    BatchAccepted,
    BatchItem,
    BatchPath,
    BatchRequest,
    BatchResultView,
    BatchSummary,
    BatchView,
    Page,
    PageQuery,
    PreferHeader,
    ResultsQuery,
    WaitQuery,
    Wire,
)
from shared.settings import Settings
from shared.store.batches import Batch, BatchReceipt, BatchResults, NewBatch, parse_result_cursor, result_cursor
from shared.store.protocol import JobStore, NewJob
from shared.views import (
    batch_accepted,
    batch_result_view,
    batch_status,
    batch_summary,
    batch_url,
    batch_view,
    retry_after,
)

PIECE = 64 * 1024
"""Characters of results that are sent at a time."""

EXAMPLE = """\
{"custom_id":"row-7","id":"job_0b54d2f0c2a94a4db60a5fd41c3eae2d","index":7,"status":"succeeded","output":"Rooibos.", … }
{"custom_id":"row-2","id":"job_4db60a5fd41c3eae2d0b54d2f0c2a94a","index":2,"status":"failed","output":null, … }
"""
LINES = Media(
    "application/x-ndjson",
    "A line of JSON for each job that has ended.",
    {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"$ref": "#/components/schemas/BatchResultView"},
    },
    EXAMPLE,
    headers=("X-Next-Cursor", "X-Batch-Status"),
    part=BatchResultView,
)
LINKS = (
    "get_batch:batch_id",
    "get_batch_results:batch_id",
    "cancel_batch:batch_id",
    "delete_batch:batch_id",
)


def routes(wire: Wire, settings: Settings) -> list[Route]:
    one = "/api/batches/<batch_id>"
    accepted: dict[int, type[Answer] | None] = {200: BatchView, 202: BatchAccepted}
    return [
        Route(
            "POST", "/api/generate_batch", generate_batch, "batches", accepted, (409, 429), links=LINKS,
            models={"query": wire.wait, "body": wire.batch}, most_bytes=settings.api_max_batch_bytes,
        ),
        Route("GET", "/api/batches", list_batches, "batches", {200: Page[BatchSummary]}),
        Route("GET", one, get_batch, "batches", {200: BatchView}, (404,)),
        Route("GET", f"{one}/results", get_batch_results, "batches", {200: LINES}, (404,)),
        Route("POST", f"{one}/cancel", cancel_batch, "batches", {200: BatchSummary, 202: BatchSummary}, (404, 409)),
        Route("DELETE", one, delete_batch, "batches", {204: None}, (404,)),
    ]  # fmt: skip


def generate_batch(query: WaitQuery, header: PreferHeader, body: BatchRequest) -> Response:
    """Submit many jobs, all or none.

    202 with where to look for the batch; with a wait, 200 with the completed batch if all of it ends in time.
    """
    house = services()
    seconds = patience(query, header)
    jobs = tuple(_job(body, index, item) for index, item in enumerate(body.items()))
    idempotency = idempotency_of(body, house.settings.idempotency_ttl_s, seconds)
    batch = _new_batch(body)
    with house.room.expect([JobRef(caller().tenant, batch.id)], wanted=seconds > 0) as expectation:
        receipt = house.submitter.submit_batch(batch, jobs, idempotency=idempotency)
        if receipt.replayed:
            return replay(receipt, _accepted)
        done = _await_batch(batch.id, expectation, seconds)
    response = answer(batch_view(done)) if done else _accepted(receipt)
    response.headers.update(limit_headers(receipt))
    say_applied(response, header)
    if seconds:
        house.submitter.remember(idempotency, response)
    return response


def _new_batch(body: BatchRequest) -> NewBatch:
    """A batch, and whom to tell of it. Of which of its jobs' events is in the jobs."""
    return NewBatch(new_id("batch"), body.webhook, " ".join(body.webhook_events_filter) if body.webhook else None)


def _job(body: BatchRequest, index: int, item: BatchItem) -> NewJob:
    """A job of a batch. What is wrong with it is named by its place in the body."""
    try:
        return NewJob(new_id("job"), services().admission.spec(item), item.custom_id)
    except InvalidRequestError as error:
        field, dot, inside = (error.param or "").partition(".")
        if body.requests and field in body.requests[index].model_fields_set:
            error.param = f"requests.{index}.{error.param}"
        elif field == "prompt":
            error.param = f"prompts.{index}{dot}{inside}"
        raise


def _await_batch(batch_id: str, expectation: Expectation, seconds: int) -> Batch | None:
    """The batch if all of it ended in time. A completed batch is told like the end of a job."""
    deadline = time.monotonic() + seconds
    while seconds and expectation.wait(deadline - time.monotonic()):
        try:
            batch = services().store.get_batch(caller().tenant, batch_id, with_jobs=True)
        except UnavailableError:
            return None
        if batch.done:
            return batch
    return None


def _accepted(receipt: BatchReceipt) -> Response:
    headers = {"Location": batch_url(receipt.id), "Retry-After": retry_after(receipt.eta_ms)}
    return answer(batch_accepted(receipt), 202, headers)


def list_batches(query: PageQuery) -> Response:
    """List batches, newest first."""
    page = services().store.list_batches(caller().tenant, query.cursor, query.limit)
    views = [batch_summary(batch) for batch in page.data]
    return answer(Page[BatchSummary](data=views, next_cursor=page.next_cursor, has_more=page.next_cursor is not None))


def get_batch(path: BatchPath) -> Response:
    """Get a batch.

    Counts while it runs; `inputs`, `outputs` and `history` once all of it has ended.
    """
    batch = services().store.get_batch(caller().tenant, path.batch_id, with_jobs=True)
    return answer(batch_view(batch), 200, _look_again(batch))


def get_batch_results(path: BatchPath, query: ResultsQuery) -> Response:
    """Get results of a batch as they come.

    A line of JSON for each job that has ended, in the order of their ends, also while the batch runs. Each line has the
    `cursor` to go on after it; `X-Next-Cursor` has that of the last one, or the one that was given where there is nothing
    new. All results are there once `X-Batch-Status` is `completed` or `canceled` and a page is empty.
    """
    tenant, store = caller().tenant, services().store
    after = parse_result_cursor(path.batch_id, query.cursor)
    first = store.batch_results(tenant, path.batch_id, after, query.limit)
    headers = {
        "X-Next-Cursor": result_cursor(path.batch_id, first.last),
        "X-Batch-Status": batch_status(first.batch),
        **_look_again(first.batch),
    }
    return Response(_lines(store, tenant, path.batch_id, first, query.limit), 200, headers, mimetype=LINES.media_type)


def _lines(store: JobStore, tenant: str, batch_id: str, page: BatchResults, limit: int) -> Iterator[str]:
    """The lines of a page, read from the store part by part while they are sent. An error cuts the answer off, so that
    nobody takes it for whole; the last line says where to go on."""
    last = page.last
    while True:
        rows = [row for row in page.rows if row.place <= last]
        yield from joined(f"{batch_result_view(batch_id, row).model_dump_json()}\n" for row in rows)
        limit -= len(rows)
        if not rows or rows[-1].place == last or limit == 0:
            return
        page = store.batch_results(tenant, batch_id, rows[-1].place, limit)


def joined(lines: Iterable[str]) -> Iterator[str]:
    """Lines in pieces that are worth sending: a line alone is small, unless it holds log-probabilities."""
    held: list[str] = []
    size = 0
    for line in lines:
        held.append(line)
        size += len(line)
        if size >= PIECE:
            yield "".join(held)
            held, size = [], 0
    if held:
        yield "".join(held)


def cancel_batch(path: BatchPath) -> Response:
    """Cancel a batch.

    No job of it starts any more. 200 when all of it has ended (also again); 202 while workers stop those that run; 409
    when it had completed before. What has ended keeps its results.
    """
    house, tenant = services(), caller().tenant
    house.store.cancel_batch(tenant, path.batch_id)
    house.submitter.go_on(path.batch_id)
    batch = house.store.get_batch(tenant, path.batch_id)
    if batch.done:
        return answer(batch_summary(batch))
    return answer(batch_summary(batch), 202, {"Location": batch_url(batch.id), "Retry-After": "1"})


def delete_batch(path: BatchPath) -> Response:
    """Delete a batch.

    Its jobs and their results are gone as if each was deleted; those that run are stopped.
    """
    services().store.delete_batch(caller().tenant, path.batch_id)
    services().submitter.go_on(path.batch_id)
    return Response(status=204)


def _look_again(batch: Batch) -> dict[str, str]:
    """When it makes sense to look again, while it runs."""
    return {} if batch.done else {"Retry-After": retry_after(batch.eta_ms)}
