"""The operations of ``BatchStore`` on Redis."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from shared.errors import BatchAlreadyFinishedError, ForeignCursorError, NotFoundError, StoreUnavailableError
from shared.job import JobError, JobStatus
from shared.store import records
from shared.store.batches import INLINE_JOBS, Batch, BatchReceipt, BatchResult, BatchResults, NewBatch
from shared.store.protocol import Hint, NewJob, Page, Submission
from shared.store.retention import Retention
from shared.store.scripts import Scripts
from shared.store.submissions import common_arguments, hints_of, job_arguments, rate_state, refusal, ttl_s

CHUNK = 500
"""Jobs of a batch that go to Redis in one call."""
READ = 200
"""Records that come from Redis in one call."""


class RedisBatches:
    """What ``RedisStore`` does with batches."""

    _scripts: Scripts
    _retention: Retention

    def submit_batch(self, submission: Submission, batch: NewBatch) -> BatchReceipt:
        rate, answer = None, []
        for head, chunk in self._chunks(submission, batch):
            answer = self._scripts.run("batch_admit", records.dumps(head), *chunk)
            match answer:
                case ["stored", limits] | ["ok", _, limits, *_]:
                    rate = rate or limits
                case ["replayed", text, *response]:
                    replayed = _receipt(text)
                    return replace(replayed, created=False, replayed=True, response=response[0] if response else None)
                case ["lost"]:
                    raise StoreUnavailableError("The batch took too long to arrive; nothing of it was accepted.")
                case _:
                    raise refusal(submission, answer)
        _, text, _, more, hints = answer
        remaining, reset_s, tokens_left, tokens_reset_s = map(int, rate or ())
        window = submission.rate_limit.limit if submission.rate_limit else None
        return replace(
            _receipt(text),
            rate=rate_state(window, remaining, reset_s),
            tokens=rate_state(submission.tokens_per_day, tokens_left, tokens_reset_s),
            hints=hints_of(hints),
            more=bool(more),
        )

    def _chunks(self, submission: Submission, batch: NewBatch) -> Iterator[tuple[dict[str, Any], list[str]]]:
        """The calls of a batch: head, and for each job its JSON and its spec's."""
        jobs = submission.jobs
        first = common_arguments(submission, self._retention) | {
            "models": Counter(job.spec.model for job in jobs),
            "ttl_ms": max(ttl_s(job.spec, self._retention) for job in jobs) * 1000,
            "hook_url": batch.hook_url,
            "hook_filter": batch.hook_filter,
        }
        for at in range(0, len(jobs), CHUNK):
            head = {"tenant": submission.tenant, "batch_id": batch.id, "size": len(jobs), "at": at}
            chunk = jobs[at : at + CHUNK]
            yield head | (records.without_none(first) if at == 0 else {}), list(self._staged(chunk, at))

    def _staged(self, jobs: Sequence[NewJob], at: int) -> Iterator[str]:
        for index, new in enumerate(jobs, at):
            yield records.dumps(job_arguments(new, self._retention) | {"batch_index": index})
            yield new.spec.to_json()

    def step_batch(self, tenant: str, batch_id: str) -> tuple[bool, tuple[Hint, ...]]:
        more, hints = self._scripts.run("batch_step", tenant, batch_id)
        return bool(more), hints_of(hints)

    def get_batch(self, tenant: str, batch_id: str, *, with_jobs: bool = False) -> Batch:
        answer = self._scripts.run("batch", tenant, batch_id, 0, READ if with_jobs else 0)
        batch = batch_record(tenant, batch_id, answer)
        if not with_jobs or batch.size > INLINE_JOBS:
            return batch
        jobs = records.batch_jobs(tenant, *answer[2:])
        for at in range(READ, batch.size, READ):
            answer = self._scripts.run("batch", tenant, batch_id, at, READ)
            batch = batch_record(tenant, batch_id, answer)  # the counts are not older than the last of the jobs
            jobs += records.batch_jobs(tenant, *answer[2:])
        return replace(batch, jobs=tuple(jobs))

    def list_batches(self, tenant: str, cursor: str | None, limit: int) -> Page[Batch]:
        below = records.parse_cursor(cursor)
        following, *rows = self._scripts.run("batch_list", tenant, limit, "" if below is None else below)
        batches = tuple(batch_record(tenant, batch_id, [fields, None]) for batch_id, fields in rows)
        return Page(batches, None if int(following) < 0 else str(following))

    def batch_results(self, tenant: str, batch_id: str, after: int, limit: int) -> BatchResults:
        answer = self._scripts.run("batch_results", tenant, batch_id, after, limit, READ)
        batch = batch_record(tenant, batch_id, answer and [answer[0], None])
        _, ends, last, *rows = answer
        if after > int(ends):
            raise ForeignCursorError(param="cursor")
        return BatchResults(batch, tuple(_result(*row) for row in rows), int(last))

    def cancel_batch(self, tenant: str, batch_id: str) -> None:
        (verdict,) = self._scripts.run("batch_cancel", tenant, batch_id)
        if verdict == "finished":
            raise BatchAlreadyFinishedError()
        if verdict == "missing":
            raise NotFoundError("No such batch.")

    def delete_batch(self, tenant: str, batch_id: str) -> None:
        if not self._scripts.run("batch_delete", tenant, batch_id):
            raise NotFoundError("No such batch.")


def _receipt(text: str) -> BatchReceipt:
    data = json.loads(text)
    return BatchReceipt(data["batch_id"], int(data["size"]), int(data["created_at"]), int(data["eta"]))


def batch_record(tenant: str, batch_id: str, answer: Sequence[Any] | None) -> Batch:
    """A batch without its jobs, from its hash and its ETA. Raises: NotFoundError."""
    if not answer:
        raise NotFoundError("No such batch.")
    fields, eta_ms, *_ = answer
    found = records.pairs(fields)
    return Batch(
        id=batch_id,
        tenant=tenant,
        created_at=int(found["created_at"]),
        size=int(found["size"]),
        total=int(found["total"]),
        counts={status: int(found[status]) for status in JobStatus},
        completed_at=int(found["completed_at"]) if "completed_at" in found else None,
        cancel_requested="cancel_requested" in found,
        eta_ms=eta_ms,
    )


def _result(place: int, job_id: str, fields: Sequence[str | None]) -> BatchResult:
    status, index, custom_id, finished_at, text, error = fields
    result = records.parse_result(text)
    return BatchResult(
        place=int(place),
        id=job_id,
        index=int(index or 0),
        custom_id=custom_id,
        status=JobStatus(status or ""),
        finished_at=int(finished_at or 0),
        result=result,
        error=JobError(**json.loads(error)) if error else None,
    )
