"""Between the record in Redis (a flat list of names and strings) and the frozen ``Job``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import date
from typing import Any

from shared.errors import InvalidCursorError, RateLimitedError
from shared.job import Choice, Job, JobError, JobRef, JobSpec, JobStatus, PromptEcho, Result, Turn, Usage
from shared.store.events import Event
from shared.store.protocol import EtaError, ModelInfo, Submission, UsageRow, WorkerInfo


def dumps(value: Any) -> str:
    """Compact JSON, characters as they are."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def without_none(value: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is None: in Lua a JSON null is not nil, and counts as true."""
    return {name: item for name, item in value.items() if item is not None}


def pairs(flat: Sequence[str]) -> dict[str, str]:
    """``[name, value, name, value…]`` → dict."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def result_json(result: Result) -> str:
    """What a job brought: kept in one field, and as the value of a cache entry."""
    return dumps(
        without_none(
            {
                "choices": [without_none(asdict(choice)) for choice in result.choices],
                "usage": asdict(result.usage),
                "cached": result.cached,
                "system_fingerprint": result.system_fingerprint or None,
                "echo": without_none(asdict(result.echo)) if result.echo else None,
            }
        )
    )


def parse_result(text: str | None) -> Result:
    """The inverse of ``result_json``; nothing where there is none."""
    data = json.loads(text or "{}")
    return Result(
        choices=tuple(Choice(**choice) for choice in data.get("choices", ())),
        usage=Usage(**data.get("usage", {})),
        cached=data.get("cached", False),
        system_fingerprint=data.get("system_fingerprint", ""),
        echo=PromptEcho(**data["echo"]) if "echo" in data else None,
    )


def turns(entries: Sequence[str]) -> tuple[Turn, ...]:
    """Turns as the history list holds them, oldest first."""
    return tuple(Turn(**json.loads(entry)) for entry in entries)


def turns_until(entries: Sequence[Turn], job_id: str) -> tuple[Turn, ...]:
    """The conversation up to and including the turn of this job; nothing where that turn is not kept any more."""
    for index, turn in enumerate(entries):
        if turn.job_id == job_id:
            return tuple(entries[: index + 1])
    return ()


def _number(record: Mapping[str, str], name: str) -> int | None:
    return int(record[name]) if name in record else None


def job(tenant: str, job_id: str, flat: Sequence[str], place: Sequence[int] = (), history: Sequence[str] = ()) -> Job:
    """A record. ``place``: position and ETA in ms, while it waits. ``history``: the user's turns as they are kept."""
    record = pairs(flat)
    result = parse_result(record.get("result"))
    error = json.loads(record["error"]) if "error" in record else None
    return Job(
        ref=JobRef(tenant, job_id),
        spec=JobSpec.from_json(record["spec"]),
        status=JobStatus(record["status"]),
        key_id=record["key_id"],
        created_at=int(record["created_at"]),
        attempt=int(record.get("attempt", 0)),
        owner=record.get("owner"),
        started_at=_number(record, "started_at"),
        finished_at=_number(record, "finished_at"),
        expires_at=_number(record, "expires_at"),
        cancel_requested="cancel" in record,
        choices=result.choices,
        usage=result.usage,
        error=JobError(**error) if error else None,
        cached=result.cached,
        system_fingerprint=result.system_fingerprint,
        echo=result.echo,
        batch_id=record.get("batch_id"),
        custom_id=record.get("custom_id"),
        request_id=record.get("request_id"),
        traceparent=record.get("traceparent"),
        webhook_status=record.get("hook_status"),
        queue_position=int(place[0]) if place else None,
        eta_ms=int(place[1]) if place else None,
        history=turns_until(turns(history), job_id),
    )


def batch_jobs(tenant: str, rows: Sequence[Sequence[Any]], conversations: Sequence[Any]) -> list[Job]:
    """Records of a batch, each with the conversation up to it. ``conversations``: user, turns, user, turns…"""
    histories = {user: turns(entries) for user, entries in zip(conversations[::2], conversations[1::2], strict=True)}
    jobs = [job(tenant, job_id, flat, place) for job_id, flat, place in rows]
    return [one.evolve(history=turns_until(histories.get(one.spec.user_id or "", ()), one.id)) for one in jobs]


def events(entries: Sequence[str]) -> tuple[Event, ...]:
    """Entries of a job's log, which are what was published."""
    return tuple(map(Event.parse, entries))


def usage_rows(day: date, fields: Mapping[str, str]) -> Iterator[UsageRow]:
    """The rows of a day, from a hash of ``KEY|MODEL|field`` (a model's name may hold ``|``)."""
    found: dict[tuple[str, str], dict[str, int]] = {}
    for name, value in fields.items():
        key_id, _, rest = name.partition("|")
        model, _, field = rest.rpartition("|")
        found.setdefault((key_id, model), {})[field] = int(value)
    for (key_id, model), counts in sorted(found.items()):
        yield UsageRow(day, key_id, model, **counts)


def worker_json(worker: WorkerInfo) -> str:
    return dumps(asdict(worker))


def worker(text: str) -> WorkerInfo:
    data = json.loads(text)
    data["model"] = model(data["model"])
    return WorkerInfo(**data)


def model(data: Mapping[str, Any]) -> ModelInfo:
    """A model's announcement. What a worker of a later version says more is passed over."""
    names = {field.name for field in fields(ModelInfo)}
    known = {name: value for name, value in data.items() if name in names}
    return ModelInfo(**(known | {"adapters": tuple(known.get("adapters", ()))}))


def parse_cursor(text: str | None) -> int | None:
    """The sequence number that a list's cursor is. Raises: InvalidCursorError."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 16):
        raise InvalidCursorError(param="cursor")
    return int(text)


def eta_error(flat: Sequence[str]) -> EtaError:
    """How far off the ETAs of a model were, from its hash."""
    fields = {name: int(value) for name, value in pairs(flat).items()}
    within = {int(name.removeprefix("le:")): count for name, count in fields.items() if name.startswith("le:")}
    return EtaError(fields.get("count", 0), fields.get("sum_ms", 0), dict(sorted(within.items())))


def rate_limited(submission: Submission, *, remaining: int, reset_s: int) -> RateLimitedError:
    """The error of a window that has no room, with the window's state for the headers."""
    assert submission.rate_limit is not None
    limit = submission.rate_limit
    message = f"Limit of {limit.limit} requests in {limit.window_s} s reached; try again in {reset_s} s."
    return RateLimitedError(message, retry_after_s=reset_s, limit=limit.limit, remaining=max(0, remaining))
