"""Jobs that are there: reading, listing, canceling, deleting."""

from __future__ import annotations

from flask import Response, request

from api.identity import caller
from api.patience import look_and_wait
from api.rendering import answer
from api.routing import Route
from api.services import services
from shared.errors import ConflictError
from shared.job import JobRef, JobStatus
from shared.schemas import ConditionalHeader, JobPath, JobsQuery, JobView, Page, WaitQuery, Wire
from shared.store.protocol import JobFilter
from shared.views import job_url, job_view, retry_after


def routes(wire: Wire) -> list[Route]:
    return [
        Route("GET", "/api/jobs", list_jobs, "jobs", {200: Page[JobView]}),
        Route(
            "GET", "/api/jobs/<job_id>", get_job, "jobs", {200: JobView, 304: None}, (404, 410),
            models={"query": wire.wait},
        ),
        Route(
            "POST", "/api/jobs/<job_id>/cancel", cancel_job, "jobs", {200: JobView, 202: JobView}, (404, 409, 410),
        ),
        Route("POST", "/api/jobs/<job_id>/retry", retry_job, "jobs", {202: JobView}, (404, 409, 410)),
        Route("DELETE", "/api/jobs/<job_id>", delete_job, "jobs", {204: None}, (404,)),
    ]  # fmt: skip


def list_jobs(query: JobsQuery) -> Response:
    """List jobs, newest first.

    A page may hold fewer than `limit` and still have a `next_cursor`. In a list `history` is left empty, and `logprobs` null.
    """
    where = JobFilter(
        status=JobStatus(query.status) if query.status else None,
        mode=query.mode,
        model=query.model,
        user_id=query.user_id,
        created_after=query.created_after,
        created_before=query.created_before,
    )
    page = services().store.list_jobs(caller().tenant, where, query.cursor, query.limit)
    jobs = [job_view(job, logprobs=False) for job in page.data]
    return answer(Page[JobView](data=jobs, next_cursor=page.next_cursor, has_more=page.next_cursor is not None))


def get_job(path: JobPath, query: WaitQuery, header: ConditionalHeader) -> Response:  # noqa: ARG001  # make_conditional reads it
    """Get a job.

    With `wait`, up to so many seconds until it ends; then as it is. 410 after its retention.
    """
    house = services()
    ref = JobRef(caller().tenant, path.job_id)
    with house.room.expect([ref], wanted=bool(query.wait)) as expectation:
        job = look_and_wait(ref, expectation, query.wait or 0)
    response = answer(job_view(job))
    if not job.status.ended:
        response.headers["Retry-After"] = retry_after(job.eta_ms)
    response.headers["Cache-Control"] = "private, no-cache"
    response.add_etag()
    response.make_conditional(request)
    return response


def cancel_job(path: JobPath) -> Response:
    """Cancel a job.

    200 when it is canceled (also again); 202 while its worker stops it; 409 when it ended otherwise.
    """
    job = services().store.cancel(JobRef(caller().tenant, path.job_id))
    if job.status is JobStatus.CANCELED:
        return answer(job_view(job))
    if job.status.ended:
        raise ConflictError()
    return answer(job_view(job), 202, {"Location": job_url(job.id), "Retry-After": "1"})


def retry_job(path: JobPath) -> Response:
    """Run a job again.

    Same id, next attempt; its former result is dropped. 409 unless it failed, expired or was canceled.
    """
    house = services()
    job, hints = house.store.retry(JobRef(caller().tenant, path.job_id))
    house.hints.send(hints)
    return answer(job_view(job), 202, {"Location": job_url(job.id), "Retry-After": retry_after(job.eta_ms)})


def delete_job(path: JobPath) -> Response:
    """Delete a job.

    Its prompt, output, cache entry and its turn of the conversation are gone; a running one is stopped.
    """
    services().store.delete(JobRef(caller().tenant, path.job_id))
    return Response(status=204)
