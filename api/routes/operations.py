"""Queues, workers and dead letters, for administrators."""

from __future__ import annotations

from urllib.parse import quote

from flask import Response

from api.rendering import answer
from api.routing import Route
from api.services import services
from shared.errors import NotFoundError
from shared.job import JobRef
from shared.schemas import (
    DeadLetterPath,
    DeadLetterView,
    EtaErrorView,
    Page,
    PageQuery,
    PurgedView,
    QueuePath,
    QueueView,
    RequeueLinks,
    WorkerPath,
    WorkerView,
    iso,
)
from shared.store.protocol import DeadLetter, EtaError, Fleet, WorkerInfo
from shared.views import failure_view


def routes() -> list[Route]:
    queue = "/api/admin/queues/<path:model>"
    letter = "/api/admin/dead_letters/<tenant>/<job_id>"
    return [
        Route("GET", "/api/admin/queues", list_queues, "queues", {200: Page[QueueView]}, scope="admin"),
        Route("POST", f"{queue}/pause", pause_queue, "queues", {200: QueueView}, (404,), scope="admin"),
        Route("POST", f"{queue}/resume", resume_queue, "queues", {200: QueueView}, (404,), scope="admin"),
        Route("POST", f"{queue}/purge", purge_queue, "queues", {200: PurgedView}, (404,), scope="admin"),
        Route("GET", "/api/admin/workers", list_workers, "workers", {200: Page[WorkerView]}, scope="admin"),
        Route("POST", "/api/admin/workers/<worker_id>/drain", drain_worker, "workers", {202: None}, (404,), scope="admin"),
        Route(
            "GET", "/api/admin/dead_letters", list_dead_letters, "dead letters", {200: Page[DeadLetterView]}, scope="admin"
        ),
        Route("POST", f"{letter}/requeue", requeue_dead_letter, "dead letters", {204: None}, (404,), scope="admin"),
    ]  # fmt: skip


def list_queues() -> Response:
    """List the queues, one for each model."""
    fleet = services().fleet.refresh()
    views = [_queue(fleet, model) for model in sorted(_queues(fleet))]
    return answer(Page[QueueView](data=views, next_cursor=None, has_more=False))


def pause_queue(path: QueuePath) -> Response:
    """Pause a queue.

    Its jobs wait; submits go on, and what is on its way to a worker or runs there ends.
    """
    _require_queue(path.model)
    services().store.pause(path.model)
    return answer(_queue(services().fleet.refresh(), path.model))


def resume_queue(path: QueuePath) -> Response:
    """Resume a paused queue."""
    _require_queue(path.model)
    house = services()
    house.hints.send(house.store.resume(path.model))
    return answer(_queue(house.fleet.refresh(), path.model))


def purge_queue(path: QueuePath) -> Response:
    """Cancel every job that waits in a queue, whosever it is."""
    _require_queue(path.model)
    return answer(PurgedView(model=path.model, canceled=services().store.purge(path.model)))


def list_workers() -> Response:
    """List the workers."""
    fleet = services().fleet.refresh()
    views = [_worker(fleet, worker) for worker in sorted(fleet.workers, key=lambda worker: worker.id)]
    return answer(Page[WorkerView](data=views, next_cursor=None, has_more=False))


def drain_worker(path: WorkerPath) -> Response:
    """Drain a worker.

    It takes no new job, ends what it runs or hands it back after its time, and exits: whatever supervises it starts a fresh
    one. It hears of it with its next heartbeat.
    """
    house = services()
    house.store.drain_worker(path.worker_id)
    return Response(status=202)


def list_dead_letters(query: PageQuery) -> Response:
    """List the dead letters, newest first: jobs whose worker died each time that they ran."""
    page = services().store.dead_letters(query.cursor, query.limit)
    views = [_dead_letter(letter) for letter in page.data]
    return answer(Page[DeadLetterView](data=views, next_cursor=page.next_cursor, has_more=page.next_cursor is not None))


def requeue_dead_letter(path: DeadLetterPath) -> Response:
    """Run a dead letter again. Its crashes are forgotten."""
    house = services()
    _, hints = house.store.requeue(JobRef(path.tenant, path.job_id))
    house.hints.send(hints)
    return Response(status=204)


def _queues(fleet: Fleet) -> set[str]:
    return {*fleet.queue_lengths, *fleet.models, *fleet.paused, services().fleet.default_model}


def _require_queue(model: str) -> None:
    """Raises: NotFoundError."""
    view = services().fleet
    if model not in _queues(view.current) and model not in _queues(view.refresh()):
        raise NotFoundError("No such queue; see GET /api/admin/queues.")


def _queue(fleet: Fleet, model: str) -> QueueView:
    ready = [worker for worker in fleet.workers if worker.model.name == model and worker.state == "ready"]
    return QueueView(
        model=model,
        length=fleet.queue_lengths.get(model, 0),
        paused=model in fleet.paused,
        workers=len(ready),
        slots=sum(worker.slots for worker in ready),
        eta_error=_eta_error(fleet.eta_errors.get(model)),
    )


def _eta_error(error: EtaError | None) -> EtaErrorView | None:
    if error is None or not error.count:
        return None
    within, so_far = {}, 0
    for bound_ms, count in error.within.items():
        so_far += count
        within[f"{bound_ms / 1000:g}"] = so_far
    return EtaErrorView(jobs=error.count, mean_seconds=round(error.sum_ms / error.count / 1000, 3), within=within)


def _worker(fleet: Fleet, worker: WorkerInfo) -> WorkerView:
    return WorkerView(
        id=worker.id,
        model=worker.model.name,
        state="draining" if worker.state == "draining" else "ready",
        slots=worker.slots,
        jobs=fleet.jobs.get(worker.id, 0),
        host=worker.host,
        pid=worker.pid,
        engine=worker.model.engine,
        device=worker.model.device,
    )


def _dead_letter(letter: DeadLetter) -> DeadLetterView:
    job = letter.job
    return DeadLetterView(
        tenant=job.ref.tenant,
        id=job.id,
        model=job.spec.model,
        convicted_at=iso(job.finished_at or job.created_at),
        created_at=iso(job.created_at),
        attempt=job.attempt,
        error=failure_view(job.error),
        urls=RequeueLinks(requeue=f"/api/admin/dead_letters/{job.ref.tenant}/{quote(job.id)}/requeue"),
    )
