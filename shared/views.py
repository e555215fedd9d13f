"""From records to what clients see: in an answer of the API, and in a webhook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, cast, get_args
from urllib.parse import quote

from shared.job import Job, JobError, Result, Turn, Usage
from shared.keys import ApiKey
from shared.logprobs import Place, unpack
from shared.schemas import (
    Accepted,
    AlternativeView,
    BatchAccepted,
    BatchJob,
    BatchLinks,
    BatchResultView,
    BatchStatus,
    BatchSummary,
    BatchView,
    ChoiceView,
    Counts,
    DeliveryView,
    FailureView,
    JobLinks,
    JobView,
    KeyView,
    LogprobsView,
    NewKeyView,
    NewWebhookView,
    TokenView,
    TurnView,
    UsageView,
    WebhookView,
    iso,
)
from shared.schemas.answers import WebhookStatus
from shared.store.batches import Batch, BatchReceipt, BatchResult, result_cursor
from shared.store.protocol import Receipt
from shared.webhooks import Delivery, Endpoint

LONGEST_RETRY_S = 10
_WEBHOOK_STATUS: Mapping[str, WebhookStatus] = {status: status for status in get_args(WebhookStatus)}


def retry_after(eta_ms: int | None) -> str:
    """When to look again, in seconds: about when it should be done, but never so late that a client falls asleep."""
    return str(min(max(1, ceil((eta_ms or 0) / 1000)), LONGEST_RETRY_S))


def job_url(job_id: str) -> str:
    return f"/api/jobs/{quote(job_id)}"


def batch_url(batch_id: str) -> str:
    return f"/api/batches/{quote(batch_id)}"


def job_links(job_id: str) -> JobLinks:
    url = job_url(job_id)
    return JobLinks(self=url, stream=f"{url}/stream", cancel=f"{url}/cancel")


def batch_links(batch_id: str) -> BatchLinks:
    url = batch_url(batch_id)
    return BatchLinks(self=url, results=f"{url}/results", cancel=f"{url}/cancel")


def _moment(moment_ms: int | None) -> str | None:
    return None if moment_ms is None else iso(moment_ms)


def seconds(duration_ms: int | None) -> float | None:
    """Milliseconds as seconds."""
    return None if duration_ms is None else duration_ms / 1000


def accepted_of_receipt(receipt: Receipt) -> Accepted:
    """A job that was just taken in."""
    return Accepted(
        id=receipt.ids[0],
        status="queued",
        queue_position=receipt.positions[0] or None,
        eta_seconds=seconds(receipt.etas_ms[0]),
        created_at=iso(receipt.created_at),
        urls=job_links(receipt.ids[0]),
    )


def accepted_of_job(job: Job) -> Accepted:
    """A job that was taken in and has not ended yet."""
    return Accepted(
        id=job.id,
        status=job.status.value,
        queue_position=job.queue_position,
        eta_seconds=seconds(job.eta_ms),
        created_at=iso(job.created_at),
        urls=job_links(job.id),
    )


def turn_views(turns: Sequence[Turn]) -> list[TurnView]:
    return [TurnView(input=turn.input, output=turn.output) for turn in turns]


def failure_view(error: JobError | None) -> FailureView | None:
    return None if error is None else FailureView(code=error.code, message=error.message, retryable=error.retryable)


def logprobs_view(places: Sequence[Place]) -> LogprobsView:
    return LogprobsView(content=[_token_view(place) for place in places])


def _token_view(place: Place) -> TokenView:
    chosen = place.chosen
    best = [
        AlternativeView(token_id=each.token, token=each.text, logprob=each.logprob)
        for each in place.best
        if each.logprob is not None
    ]
    return TokenView(token_id=chosen.token, token=chosen.text, logprob=chosen.logprob, top_logprobs=best)


def choice_views(result: Result, *, logprobs: bool = True) -> list[ChoiceView]:
    """The completions, with the prompt before each where it is to stand there. logprobs: whether they are shown; they are large."""
    before = unpack(result.echo.logprobs) if logprobs and result.echo and result.echo.logprobs else ()
    prompt = result.echo.text if result.echo else ""
    return [
        ChoiceView(
            index=choice.index,
            text=prompt + choice.text,
            finish_reason=choice.finish_reason,
            logprobs=logprobs_view((*before, *unpack(choice.logprobs))) if logprobs and choice.logprobs else None,
        )
        for choice in result.choices
    ]


def _first_text(choices: Sequence[ChoiceView]) -> str | None:
    return choices[0].text if choices else None


def usage_view(usage: Usage) -> UsageView:
    return UsageView(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
        cached_tokens=usage.cached_tokens,
    )


def job_view(job: Job, *, logprobs: bool = True) -> JobView:
    """A job in any state. logprobs: whether they are shown, where they were asked for."""
    spec = job.spec
    choices = choice_views(job.result, logprobs=logprobs)
    return JobView(
        id=job.id,
        status=job.status.value,
        mode=spec.mode,
        model=spec.model,
        user_id=spec.user_id,
        priority=spec.priority.value,
        queue_position=job.queue_position,
        eta_seconds=seconds(job.eta_ms),
        attempt=job.attempt,
        created_at=iso(job.created_at),
        started_at=_moment(job.started_at),
        finished_at=_moment(job.finished_at),
        expires_at=_moment(job.expires_at),
        queue_time_ms=job.queue_time_ms,
        execution_time_ms=job.execution_time_ms,
        input=spec.prompt,
        input_token_ids=list(spec.prompt_token_ids) or None,
        output=_first_text(choices),
        choices=choices,
        history=turn_views(job.history),
        usage=usage_view(job.usage) if job.status.ended else None,
        error=failure_view(job.error),
        cached=job.cached,
        system_fingerprint=job.system_fingerprint or None,
        cancel_requested=job.cancel_requested,
        metadata=dict(spec.metadata),
        batch_id=job.batch_id,
        custom_id=job.custom_id,
        webhook_status=_WEBHOOK_STATUS.get(job.webhook_status or ""),
        urls=job_links(job.id),
    )


def batch_accepted(receipt: BatchReceipt) -> BatchAccepted:
    """A batch that was just taken in."""
    total = receipt.size
    return BatchAccepted(
        id=receipt.id,
        status="in_progress",
        counts=Counts(total=total, queued=total, running=0, succeeded=0, failed=0, canceled=0, expired=0),
        created_at=iso(receipt.created_at),
        urls=batch_links(receipt.id),
    )


def batch_status(batch: Batch) -> BatchStatus:
    """A batch's status is what its marks say."""
    if batch.cancel_requested:
        return "canceled" if batch.done else "canceling"
    return "completed" if batch.done else "in_progress"


def batch_summary(batch: Batch) -> BatchSummary:
    """A batch without its jobs, in any state."""
    return BatchSummary(**_batch_fields(batch))


def batch_view(batch: Batch) -> BatchView:
    """A batch in any state, with its jobs if it was read with them."""
    jobs, done = batch.jobs, batch.done
    return BatchView(
        **_batch_fields(batch),
        jobs=None
        if jobs is None
        else [
            BatchJob(id=job.id, custom_id=job.custom_id, status=job.status.value, urls=job_links(job.id))
            for job in jobs
        ],
        inputs=[job.spec.prompt for job in jobs] if jobs is not None and done else None,
        outputs=[_first_text(choice_views(job.result, logprobs=False)) for job in jobs]
        if jobs is not None and done
        else None,
        history=[turn_views(job.history) for job in jobs] if jobs is not None and done else None,
    )


def _batch_fields(batch: Batch) -> dict[str, Any]:
    return {
        "id": batch.id,
        "status": batch_status(batch),
        "counts": Counts(total=batch.total, **{status.value: count for status, count in batch.counts.items()}),
        "created_at": iso(batch.created_at),
        "urls": batch_links(batch.id),
        "completed_at": _moment(batch.completed_at),
        "cancel_requested": batch.cancel_requested,
    }


def batch_result_view(batch_id: str, result: BatchResult) -> BatchResultView:
    """A line of a batch's results."""
    choices = choice_views(result.result)
    return BatchResultView(
        custom_id=result.custom_id,
        id=result.id,
        index=result.index,
        status=cast("Any", result.status.value),
        output=_first_text(choices),
        choices=choices,
        usage=usage_view(result.result.usage),
        error=failure_view(result.error),
        cached=result.result.cached,
        system_fingerprint=result.result.system_fingerprint or None,
        finished_at=iso(result.finished_at),
        cursor=result_cursor(batch_id, result.place),
    )


def webhook_url(endpoint_id: str) -> str:
    return f"/api/webhooks/{quote(endpoint_id)}"


def webhook_view(endpoint: Endpoint) -> WebhookView:
    return WebhookView(**_webhook_fields(endpoint))


def new_webhook_view(endpoint: Endpoint) -> NewWebhookView:
    return NewWebhookView(**_webhook_fields(endpoint), secret=endpoint.secret)


def _webhook_fields(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "id": endpoint.id,
        "url": endpoint.url,
        "events": list(endpoint.events),
        "description": endpoint.description,
        "status": "enabled" if endpoint.enabled else "disabled",
        "disabled_reason": endpoint.disabled_reason,
        "created_at": iso(endpoint.created_at),
    }


def delivery_view(delivery: Delivery) -> DeliveryView:
    return DeliveryView(
        id=delivery.id,
        message_id=delivery.message_id,
        endpoint_id=delivery.endpoint_id,
        type=delivery.type,
        job_id=delivery.job_id,
        batch_id=delivery.batch_id,
        url=delivery.url,
        status=delivery.status.value,
        attempts=delivery.attempts,
        response_status=delivery.response_status,
        error=delivery.error,
        created_at=iso(delivery.created_at),
        next_attempt_at=_moment(delivery.next_attempt_at),
        delivered_at=_moment(delivery.delivered_at),
    )


def key_view(key: ApiKey) -> KeyView:
    return KeyView(**_key_fields(key))


def new_key_view(key: ApiKey, secret: str) -> NewKeyView:
    return NewKeyView(**_key_fields(key), key=secret)


def _key_fields(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "tenant": key.tenant,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "prefix": key.prefix,
        "created_at": iso(key.created_at),
        "weight": key.weight,
        "requests_per_minute": key.requests_per_minute,
        "tokens_per_day": key.tokens_per_day,
        "max_queued": key.max_queued,
    }
