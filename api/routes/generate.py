"""Submitting a job, or one under an id of the client's."""

from __future__ import annotations

from flask import Response

from api.identity import caller
from api.limits import limit_headers
from api.patience import look_and_wait, patience, say_applied, until_ended
from api.rendering import answer
from api.routing import Route
from api.services import services
from api.submission import idempotency_of, new_id, replay
from api.waiting import Expectation
from shared.errors import UnavailableError
from shared.job import Job, JobRef
from shared.schemas import (
    Accepted,
    Answer,
    GenerateRequest,
    JobPath,
    JobView,
    PreferHeader,
    WaitQuery,
    Wire,
)
from shared.store.protocol import NewJob, Receipt
from shared.views import (
    accepted_of_job,
    accepted_of_receipt,
    job_url,
    job_view,
    retry_after,
)


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
    ]  # fmt: skip


def generate(query: WaitQuery, header: PreferHeader, body: GenerateRequest) -> Response:
    """Submit a job.

    202 with where to look for it; with a wait, 200 with the finished job if it ends in time.
    """
    house = services()
    seconds = patience(query, header)
    job = NewJob(new_id("job"), house.admission.spec(body))
    idempotency = idempotency_of(body, house.settings.idempotency_ttl_s, seconds)
    ref = JobRef(caller().tenant, job.id)
    with house.room.expect([ref], wanted=seconds > 0) as expectation:
        receipt = house.submitter.submit((job,), idempotency=idempotency)
        if receipt.replayed:
            return replay(receipt, _accepted)
        ended = _await_job(ref, expectation, seconds)
    response = _accepted(receipt) if ended is None else _outcome(ended)
    response.headers.update(limit_headers(receipt))
    say_applied(response, header)
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
    say_applied(response, header)
    return response


def _await_job(ref: JobRef, expectation: Expectation, seconds: int) -> Job | None:
    """The job after the wait; None without one, and where Redis went away meanwhile: the job was taken in all the same."""
    if not seconds or not expectation.admitted:
        return None
    try:
        return until_ended(ref, expectation, seconds)
    except UnavailableError:
        return None


def _accepted(receipt: Receipt, status: int = 202) -> Response:
    return answer(
        accepted_of_receipt(receipt),
        status,
        {"Location": job_url(receipt.ids[0]), "Retry-After": retry_after(receipt.etas_ms[0])},
    )


def _outcome(job: Job) -> Response:
    """A job after a wait: finished, or taken in."""
    if job.status.ended:
        return answer(job_view(job))
    return answer(accepted_of_job(job), 202, {"Location": job_url(job.id), "Retry-After": retry_after(job.eta_ms)})
