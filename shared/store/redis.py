"""The job store on Redis: one round trip an operation, each a Lua script of its own."""

from __future__ import annotations

import base64
import json
import threading
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import date, timedelta
from typing import Any

from shared.errors import (
    GoneError,
    JobAlreadyFinishedError,
    JobNotRetryableError,
    NotFoundError,
)
from shared.job import Job, JobRef, JobStatus, Outcome, Result, Turn
from shared.store import figures, records
from shared.store.connection import Client
from shared.store.events import JobLog, Said, Told
from shared.store.figures import Figures
from shared.store.protocol import (
    Claim,
    DeadLetter,
    Finished,
    Fleet,
    Hint,
    JobFilter,
    Orders,
    Page,
    Patience,
    Receipt,
    Reconciled,
    Stop,
    Submission,
    SweepPoint,
    UsageRow,
    WorkerInfo,
)
from shared.store.redis_batches import RedisBatches
from shared.store.retention import Retention
from shared.store.scripts import NO_WAIT, Durability, Scripts, guarded
from shared.store.submissions import common_arguments, hints_of, job_arguments, rate_state, refusal

EPOCH = date(1970, 1, 1)
LISTEN_S = 0.5
"""How long one look for messages may take: within it a listener notices that it is to end."""
PURGE_BATCH = 500
SCAN_LIMIT = 2_000
"""Records that one page of a list may look at: bounds the time that a rare filter holds the server."""


class RedisStore(RedisBatches):
    """The real ``JobStore``. Thread-safe."""

    def __init__(
        self,
        client: Client,
        prefix: str,
        retention: Retention | None = None,
        *,
        script_flags: bool = True,
        durability: Durability = NO_WAIT,
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._retention = retention or Retention()
        self._scripts = Scripts(client, prefix, flags=script_flags, durability=durability)

    # --- the client's side

    def submit(self, submission: Submission) -> Receipt:
        answer = self._scripts.run("submit", records.dumps(self._submit_arguments(submission)))
        return _receipt(submission, answer)

    def _submit_arguments(self, submission: Submission) -> dict[str, Any]:
        jobs = [job_arguments(new, self._retention) | {"spec": new.spec.to_json()} for new in submission.jobs]
        more = {"chosen": submission.chosen_id or None, "jobs": jobs}
        return records.without_none(common_arguments(submission, self._retention) | more)

    def complete_idempotent(self, scope: str, response: str) -> None:
        self._scripts.run("complete", scope, response)

    def get(self, ref: JobRef) -> Job:
        return _one(ref, self._scripts.run("get", ref.tenant, ref.id))

    def log(self, ref: JobRef, after: int, most: int) -> JobLog:
        answer = self._scripts.run("log", ref.tenant, ref.id, after, most)
        job = _one(ref, answer[:4])
        start, last, entries = answer[4:]
        return JobLog(job, int(start), int(last), records.events(entries))

    def latest(self, refs: Sequence[JobRef]) -> list[int]:
        return [int(number) for number in self._scripts.run("latest", *map(str, refs))]

    def list_jobs(self, tenant: str, where: JobFilter, cursor: str | None, limit: int) -> Page[Job]:
        arguments = records.without_none(
            {
                "tenant": tenant,
                "where": records.without_none(asdict(where)),
                "before": records.parse_cursor(cursor),
                "limit": limit,
                "scan": SCAN_LIMIT,
            }
        )
        following, *rows = self._scripts.run("list", records.dumps(arguments))
        jobs = tuple(records.job(tenant, job_id, flat, place) for job_id, flat, place in rows)
        return Page(jobs, None if int(following) < 0 else str(following))

    def cancel(self, ref: JobRef) -> Job:
        return _one(ref, self._scripts.run("cancel", ref.tenant, ref.id))

    def retry(self, ref: JobRef) -> tuple[Job, tuple[Hint, ...]]:
        answer = self._scripts.run("retry", ref.tenant, ref.id)
        return _one(ref, answer[:4]), hints_of(answer[4])

    def delete(self, ref: JobRef) -> None:
        if not self._scripts.run("delete", ref.tenant, ref.id):
            raise NotFoundError("No such job.")

    def history(self, tenant: str, user_id: str) -> tuple[Turn, ...]:
        entries = guarded(lambda: self._client.lrange(f"{self._prefix}history:{tenant}:{user_id}", 0, -1))
        return records.turns(entries)

    def delete_history(self, tenant: str, user_id: str) -> int:
        return int(self._scripts.run("forget", tenant, user_id))

    # --- the worker's side

    def claim(self, ref: JobRef, worker: str, token: str) -> Claim | None:
        answer = self._scripts.run("claim", ref.tenant, ref.id, worker, token, self._retention.events_ttl_s * 1000)
        if answer is None:
            return None
        flat, turns = answer
        return Claim(records.job(ref.tenant, ref.id, flat), records.turns(turns))

    def progress(self, worker: str, said: Sequence[Said], /) -> list[Told]:
        jobs = [[one.ref.tenant, one.ref.id, one.attempt, one.since, one.entries] for one in said]
        arguments = {"worker": worker, "most": self._retention.events_max, "jobs": jobs}
        answer = self._scripts.run("progress", records.dumps(arguments))
        return [Told(int(count), bool(watched)) for count, watched in answer]

    def finish(
        self, ref: JobRef, worker: str, attempt: int, outcome: Outcome, said: Said | None = None
    ) -> tuple[Finished, tuple[Hint, ...]]:
        cacheable = outcome.cache_key and outcome.status is JobStatus.SUCCEEDED and self._retention.cache_ttl_s
        arguments = records.without_none(
            {
                "tenant": ref.tenant,
                "id": ref.id,
                "worker": worker,
                "attempt": attempt,
                "status": outcome.status,
                "result": records.result_json(outcome.result),
                "error": records.dumps(asdict(outcome.error)) if outcome.error else None,
                "cached": outcome.cached or None,
                "output": outcome.choices[0].text if outcome.choices else None,
                "cache_key": outcome.cache_key if cacheable else None,
                "cache_ttl_ms": self._retention.cache_ttl_s * 1000,
                "prompt_tokens": 0 if outcome.cached else outcome.usage.prompt_tokens,
                "completion_tokens": 0 if outcome.cached else outcome.usage.completion_tokens,
                "cached_tokens": 0 if outcome.cached else outcome.usage.cached_tokens,
                "max_turns": self._retention.history_max_turns,
                "history_ttl_ms": self._retention.history_ttl_s * 1000,
                "said": said.entries if said else None,
                "since": said.since if said else None,
                "most": self._retention.events_max,
            }
        )
        verdict, *hints = self._scripts.run("finish", records.dumps(arguments))
        return Finished(verdict), hints_of(hints[0] if hints else [])

    def release(self, ref: JobRef, worker: str, attempt: int) -> tuple[Hint, ...] | None:
        owned, *hints = self._scripts.run("release", ref.tenant, ref.id, worker, attempt)
        return hints_of(hints[0]) if owned else None

    def cached(self, tenant: str, cache_key: str) -> Result | None:
        text = guarded(lambda: self._client.get(f"{self._prefix}cache:{tenant}:{cache_key}"))
        return None if text is None else records.parse_result(text)

    def beat(self, worker: WorkerInfo, running: Sequence[tuple[JobRef, int]]) -> Orders:
        arguments = {
            "id": worker.id,
            "info": records.worker_json(worker),
            "model": worker.model.name,
            "model_info": records.dumps(asdict(worker.model)),
            "lease_ms": int(self._retention.worker_lease_s * 1000),
            "running": [[ref.tenant, ref.id, attempt] for ref, attempt in running],
        }
        drain, *stops = self._scripts.run("beat", records.dumps(arguments))
        return Orders({JobRef.parse(name): Stop(why) for name, why in stops}, drain=bool(drain))

    def drain_worker(self, worker: str) -> None:
        if not self._scripts.run("drain", worker):
            raise NotFoundError("No such worker.")

    def listen_for_stops(self, worker: str, stop: Callable[[JobRef], None], ended: threading.Event) -> None:
        with self._client.pubsub() as subscription:  # type: ignore[no-untyped-call]  # redis-py leaves it bare
            guarded(lambda: subscription.subscribe(f"{self._prefix}stop:{worker}"))
            while not ended.is_set():
                message = guarded(lambda: subscription.get_message(timeout=LISTEN_S))
                if message is not None and message["type"] == "message":
                    stop(JobRef.parse(message["data"]))

    def depart(self, worker: str) -> tuple[Hint, ...]:
        return hints_of(self._scripts.run("depart", worker))

    def reconcile(self, patience: Patience) -> Reconciled:
        hints, again, reaped, held = self._scripts.run(
            "reconcile",
            int(self._retention.worker_lease_s * 1000),
            int(patience.grace_s * 1000),
            int(patience.age_s * 1000),
            patience.most_crashes,
            int(patience.pause_s * 1000),
        )
        return Reconciled((*hints_of(again, again=True), *hints_of(hints)), tuple(reaped), bool(held))

    def pause(self, model: str) -> None:
        self._scripts.run("queue", "pause", model, 0)

    def resume(self, model: str) -> tuple[Hint, ...]:
        return hints_of(self._scripts.run("queue", "resume", model, 0)[1])

    def purge(self, model: str) -> int:
        total = 0
        while True:
            count = int(self._scripts.run("queue", "purge", model, PURGE_BATCH)[0])
            total += count
            if count < PURGE_BATCH:
                return total

    def dead_letters(self, cursor: str | None, limit: int) -> Page[DeadLetter]:
        before = records.parse_cursor(cursor)
        rows = self._scripts.run("dead", "+inf" if before is None else f"({before}", limit)
        letters = []
        for member, _, flat in rows[:limit]:
            ref = JobRef.parse(member)
            letters.append(DeadLetter(records.job(ref.tenant, ref.id, flat)))
        return Page(tuple(letters), rows[limit - 1][1] if len(rows) > limit else None)

    def requeue(self, ref: JobRef) -> tuple[Job, tuple[Hint, ...]]:
        answer = self._scripts.run("retry", ref.tenant, ref.id, "dead")
        return _one(ref, answer[:4]), hints_of(answer[4])

    def usage(self, tenant: str, first: date, last: date) -> tuple[UsageRow, ...]:
        days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
        pipeline = self._client.pipeline(transaction=False)
        for day in days:
            pipeline.hgetall(f"{self._prefix}usage:{tenant}:{(day - EPOCH).days}")
        answers = guarded(pipeline.execute)
        return tuple(row for day, fields in zip(days, answers, strict=True) for row in records.usage_rows(day, fields))

    def put_tokenizer(self, digest: str, content: bytes) -> None:
        packed = base64.b85encode(zlib.compress(content)).decode()
        guarded(lambda: self._client.set(f"{self._prefix}tokenizer:{digest}", packed))

    def tokenizer(self, digest: str) -> bytes | None:
        packed = guarded(lambda: self._client.get(f"{self._prefix}tokenizer:{digest}"))
        return None if packed is None else zlib.decompress(base64.b85decode(packed))

    def sweep(self, after: SweepPoint | None, most: int) -> tuple[SweepPoint | None, int]:
        at = after or SweepPoint("", 0)
        point, gone = self._scripts.run("sweep", at.tenant, at.sequence, most)
        return (SweepPoint(point[0], int(float(point[1]))) if point else None), int(gone)

    # --- everybody's

    def fleet(self) -> Fleet:
        workers, models, lengths, paused, running, off, couriers = self._scripts.run("fleet")
        return Fleet(
            workers=tuple(records.worker(text) for text in workers),
            models={name: records.model(json.loads(text)) for name, text in records.pairs(models).items()},
            queue_lengths={model: int(length) for model, length in records.pairs(lengths).items()},
            paused=frozenset(paused),
            jobs={worker: int(count) for worker, count in records.pairs(running).items()},
            eta_errors={model: records.eta_error(flat) for model, flat in zip(off[::2], off[1::2], strict=True)},
            couriers=int(couriers),
        )

    def figures(self, tenants: Sequence[str] = ()) -> Figures:
        return figures.parse(self._scripts.run("figures", records.dumps(list(tenants))))

    def ping(self) -> None:
        guarded(self._client.ping)


def _one(ref: JobRef, answer: list[Any]) -> Job:
    """The record of a ``get`` or ``cancel``. Raises: NotFoundError, GoneError, JobAlreadyFinishedError."""
    match answer:
        case ["ok", flat, place, turns]:
            return records.job(ref.tenant, ref.id, flat, place, turns)
        case ["gone"]:
            raise GoneError("This job's retention is over.")
        case ["not_retryable"]:
            raise JobNotRetryableError()
        case ["finished"]:
            raise JobAlreadyFinishedError()
        case _:
            raise NotFoundError("No such job.")


def _receipt(submission: Submission, answer: list[Any]) -> Receipt:
    """The answer of the submit script. Raises: what ``JobStore.submit`` raises."""
    match answer:
        case ["ok", text, created, remaining, reset_s, hints, tokens_left, tokens_reset_s]:
            window = submission.rate_limit.limit if submission.rate_limit else None
            return _parse_receipt(
                text,
                created=bool(created),
                rate=rate_state(window, int(remaining), int(reset_s)),
                tokens=rate_state(submission.tokens_per_day, int(tokens_left), int(tokens_reset_s)),
                hints=hints_of(hints),
            )
        case ["ok", text, created]:
            return _parse_receipt(text, created=bool(created))
        case ["replayed", text, *response]:
            return _parse_receipt(text, created=False, replayed=True, response=response[0] if response else None)
        case _:
            raise refusal(submission, answer)


def _parse_receipt(text: str, **more: Any) -> Receipt:
    data = json.loads(text)
    return Receipt(
        ids=tuple(data["ids"]),
        positions=tuple(int(position) for position in data["positions"]),
        etas_ms=tuple(int(eta) for eta in data["etas"]),
        created_at=int(data["created_at"]),
        **more,
    )
