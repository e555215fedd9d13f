"""Between a submission and its scripts: arguments, refusals, hints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from types import MappingProxyType
from typing import Any

from shared.errors import (
    AuthenticationError,
    GoneError,
    IdempotencyInProgressError,
    IdempotencyKeyReusedError,
    JobExistsError,
    QueueFullError,
    QueueLimitError,
    RateLimitedError,
    SmartTextGenError,
)
from shared.job import PRIORITY_RANK, JobRef, JobSpec
from shared.store import records
from shared.store.protocol import Hint, Idempotency, NewJob, RateState, Submission
from shared.store.retention import Retention


def common_arguments(submission: Submission, retention: Retention) -> dict[str, Any]:
    """What holds for the whole submission."""
    return {
        "tenant": submission.tenant,
        "key_id": submission.key_id,
        "key_digest": submission.key_digest,
        "request_id": submission.request_id,
        "traceparent": submission.traceparent,
        "tomb_ms": retention.tombstone_ttl_s * 1000,
        "max_queued": submission.max_queued,
        "max_waiting": submission.max_waiting,
        "tokens_per_day": submission.tokens_per_day,
        "weight": submission.weight if submission.weight != 1 else None,
        "rate": asdict(submission.rate_limit) if submission.rate_limit else None,
        "idem": _idempotency_arguments(submission.idempotency) if submission.idempotency else None,
    }


def job_arguments(new: NewJob, retention: Retention) -> dict[str, Any]:
    """A job's own fields, without its spec."""
    spec = new.spec
    return records.without_none(
        {
            "id": new.id,
            "fp": spec.fingerprint(),
            "mode": spec.mode,
            "model": spec.model,
            "user_id": spec.user_id,
            "custom_id": new.custom_id,
            "rank": PRIORITY_RANK[spec.priority],
            "cost": expected_cost(spec),
            "ttl_ms": ttl_s(spec, retention) * 1000,
            "hook_url": spec.webhook,
            "hook_filter": " ".join(spec.webhook_events_filter) if spec.webhook else None,
            "queue_ms": spec.queue_timeout_s and spec.queue_timeout_s * 1000,
            "run_ms": spec.execution_timeout_s and spec.execution_timeout_s * 1000,
        }
    )


def ttl_s(spec: JobSpec, retention: Retention) -> int:
    """Seconds that the finished job is kept."""
    return spec.result_ttl_s or retention.result_ttl_s


def expected_cost(spec: JobSpec) -> int:
    """What a job is charged until its real tokens are known: prompt tokens once, at four bytes a token, and output tokens
    twice (the weights of the VTC paper, section 4.1)."""
    prompt = len(spec.prompt_token_ids) or len(spec.prompt.encode()) // 4 + 1
    return prompt + 2 * spec.max_length * spec.n


def _idempotency_arguments(idempotency: Idempotency) -> dict[str, Any]:
    return {
        "scope": idempotency.scope,
        "fp": idempotency.fingerprint,
        "ttl_ms": idempotency.ttl_s * 1000,
        "in_progress_ms": idempotency.in_progress_s * 1000,
    }


_REFUSALS: Mapping[str, Callable[[], SmartTextGenError]] = MappingProxyType(
    {
        "revoked": AuthenticationError,
        "idempotency_key_reused": IdempotencyKeyReusedError,
        "idempotency_in_progress": IdempotencyInProgressError,
        "job_exists": JobExistsError,
        "gone": partial(GoneError, "This job's retention is over."),
        "queue_full": QueueFullError,
    }
)


def refusal(submission: Submission, answer: list[Any]) -> SmartTextGenError:
    """The error that an admission script answered with."""
    match answer:
        case ["rate_limited", remaining, reset_s]:
            return records.rate_limited(submission, remaining=int(remaining), reset_s=int(reset_s))
        case ["tokens_limited", _, reset_s]:
            message = f"This key's {submission.tokens_per_day} tokens of today are used up."
            return RateLimitedError(message, retry_after_s=int(reset_s))
        case ["queue_limit", *_]:
            return QueueLimitError(f"This key may have {submission.max_queued} jobs waiting.", retry_after_s=5)
        case [name] if name in _REFUSALS:
            return _REFUSALS[name]()
        case _:
            raise AssertionError(f"unknown answer of an admission script: {answer[0]}")


def rate_state(limit: int | None, remaining: int, reset_s: int) -> RateState | None:
    return None if limit is None or remaining < 0 else RateState(limit, remaining, reset_s)


def hints_of(rows: list[Any], *, again: bool = False) -> tuple[Hint, ...]:
    return tuple(Hint(JobRef.parse(name), model, again) for name, model in rows)
