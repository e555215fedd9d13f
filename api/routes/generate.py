"""Submitting jobs: one, one under an id of the client's, or a batch."""

from __future__ import annotations

import time
import uuid

from flask import Response

from api.identity import caller
from api.limits import limit_headers
from api.patience import look_and_wait, patience, preferred, until_ended
from api.rendering import answer
from api.routing import Route
from api.services import services
from api.submission import idempotency_of, replay
from api.waiting import Expectation
from shared.errors import InvalidRequestError, UnavailableError
from shared.job import Job, JobRef
from shared.schemas import (
    Accepted,
    Answer,
    BatchAccepted,
    BatchItem,
    BatchRequest,
    BatchView,
    GenerateRequest,
    JobPath,
    JobView,
    PreferHeader,
    WaitQuery,
    Wire,
)
from shared.store.protocol import Batch, Idempotency, NewJob, Receipt
from shared.views import (
    accepted_of_job,
    accepted_of_receipt,
    batch_accepted,
    batch_done,
    batch_url,
    batch_view,
    job_url,
    job_view,
    retry_after,
)

REPLAY_GRACE_S = 10
"""A first request that waits counts as being handled for its wait and so much more."""


def routes(wire: Wire) -> list[Route]:
    accepted: dict[int, type[Answer] | None] = {200: JobView, 202: Accepted}
    return [
        Route(
            "POST", "/api/generate", generate, "jobs", accepted, (409, 429),
            models={"query": wire.wait, "body": wire.generate}, links=("get_job:job_id", "cancel_job:job_id", "retry_job:job_id", "delete_job:job_id"),
        ),
        Route(
            "PUT", "/api/jobs/<job_id>", put_job, "jobs", {201: Accepted, 200: JobView}, (409, 410, 429),
            models={"query": wire.wait, "body": wire.generate}, links=("get_job:job_id", "cancel_job:job_id", "retry_job:job_id", "delete_job:job_id"),
        ),
        Route(
            "POST", "/api/generate_batch", generate_batch, "batches", {200: BatchView, 202: BatchAccepted}, (409, 429),
            models={"query": wire.wait, "body": wire.batch}, links=("get_batch:batch_id",),
        ),
    ]  # fmt: skip


def generate(query: WaitQuery, header: PreferHeader, body: GenerateRequest) -> Response:
    """Submit a job.

    202 with where to look for it; with a wait, 200 with the finished job if it ends in time.
    """
    house = services()
    seconds = patience(query, header)
    job = NewJob(_new_id("job"), house.admission.spec(body))
    idempotency = _idempotency(body, seconds)
    ref = JobRef(caller().tenant, job.id)
    with house.room.expect([ref], wanted=seconds > 0) as expectation:
        receipt = house.submitter.submit((job,), idempotency=idempotency)
        if receipt.replayed:
            return replay(receipt, _accepted)
        ended = _await_job(ref, expectation, seconds)
    response = _accepted(receipt) if ended is None else _outcome(ended)
    response.headers.update(limit_headers(receipt))
    _say_applied(response, header)
    if seconds:
        house.submitter.remember(idempotency, response)
    return response


def put_job(path: JobPath, query: WaitQuery, header: PreferHeader, body: GenerateRequest) -> Response:
    """Submit a job under an id of yours.

    201 where it is new, 200 with the job where the same one is there, 409 where another one is. So it may be repeated.
    """
    house = services()
    seconds = patience(query, header)
    job = NewJob(path.job_id, house.admission.spec(body))
    ref = JobRef(caller().tenant, job.id)
    with house.room.expect([ref], wanted=seconds > 0) as expectation:
        receipt = house.submitter.submit((job,), chosen_id=True)
        if not receipt.created:
            return answer(job_view(look_and_wait(ref, expectation, seconds)))
        ended = _await_job(ref, expectation, seconds)
    response = _accepted(receipt, 201) if ended is None or not ended.status.ended else _outcome(ended)
    response.headers.update(limit_headers(receipt))
    _say_applied(response, header)
    return response


def generate_batch(query: WaitQuery, header: PreferHeader, body: BatchRequest) -> Response:
    """Submit many jobs, all or none.

    202 with where to look for the batch; with a wait, 200 with the completed batch if all of it ends in time.
    """
    house = services()
    seconds = patience(query, header)
    jobs = tuple(_batch_job(body, index, item) for index, item in enumerate(body.items()))
    idempotency = _idempotency(body, seconds)
    refs = [JobRef(caller().tenant, job.id) for job in jobs]
    batch_id = _new_id("batch")
    with house.room.expect(refs, wanted=seconds > 0) as expectation:
        receipt = house.submitter.submit(jobs, idempotency=idempotency, batch_id=batch_id)
        if receipt.replayed:
            return replay(receipt, _batch_accepted)
        batch = _await_batch(batch_id, expectation, seconds)
    response = answer(batch_view(batch)) if batch else _batch_accepted(receipt)
    response.headers.update(limit_headers(receipt))
    _say_applied(response, header)
    if seconds:
        house.submitter.remember(idempotency, response)
    return response


def _batch_job(body: BatchRequest, index: int, item: BatchItem) -> NewJob:
    """A job of a batch. What is wrong with it is named by its place in the body."""
    try:
        return NewJob(_new_id("job"), services().admission.spec(item), item.custom_id)
    except InvalidRequestError as error:
        if body.requests and error.param in body.requests[index].model_fields_set:
            error.param = f"requests.{index}.{error.param}"
        elif error.param == "prompt":
            error.param = f"prompts.{index}"
        raise


def _new_id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"


def _idempotency(body: GenerateRequest | BatchRequest, seconds: int) -> Idempotency | None:
    in_progress_s = seconds + REPLAY_GRACE_S if seconds else 0
    return idempotency_of(body, services().settings.idempotency_ttl_s, in_progress_s)


def _await_job(ref: JobRef, expectation: Expectation, seconds: int) -> Job | None:
    """The job after the wait; None without one, and where Redis went away meanwhile: the job was taken in all the same."""
    if not seconds or not expectation.admitted:
        return None
    try:
        return until_ended(ref, expectation, seconds)
    except UnavailableError:
        return None


def _await_batch(batch_id: str, expectation: Expectation, seconds: int) -> Batch | None:
    """The batch if all of it ended in time."""
    deadline = time.monotonic() + seconds
    while seconds and expectation.wait(deadline - time.monotonic()):
        try:
            batch = services().store.get_batch(caller().tenant, batch_id)
        except UnavailableError:
            return None
        if batch_done(batch):
            return batch
    return None


def _accepted(receipt: Receipt, status: int = 202) -> Response:
    return answer(
        accepted_of_receipt(receipt),
        status,
        {"Location": job_url(receipt.ids[0]), "Retry-After": retry_after(receipt.etas_ms[0])},
    )


def _batch_accepted(receipt: Receipt) -> Response:
    assert receipt.batch_id is not None
    headers = {"Location": batch_url(receipt.batch_id), "Retry-After": retry_after(max(receipt.etas_ms))}
    return answer(batch_accepted(receipt), 202, headers)


def _outcome(job: Job) -> Response:
    """A job after a wait: finished, or taken in."""
    if job.status.ended:
        return answer(job_view(job))
    return answer(accepted_of_job(job), 202, {"Location": job_url(job.id), "Retry-After": retry_after(job.eta_ms)})


def _say_applied(response: Response, header: PreferHeader) -> None:
    if response.status_code == 200 and (seconds := preferred(header)):
        response.headers["Preference-Applied"] = f"wait={seconds}"
