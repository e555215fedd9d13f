"""A job in a few words, for terminals."""

from __future__ import annotations

from smarttextgen.types import Job

STATUS_STYLES = {
    "queued": "yellow",
    "running": "cyan",
    "succeeded": "green",
    "failed": "red",
    "canceled": "magenta",
    "expired": "magenta",
}


def describe(job: Job) -> str:
    """What there is to say of a job beside its status: its place in the line, or its time and tokens."""
    parts: list[str] = []
    if job.status == "queued" and job.queue_position is not None:
        parts.append(f"position {job.queue_position}")
    if not job.ended and (job.eta_seconds or 0) >= 1:
        parts.append(f"about {job.eta_seconds or 0:.0f} s")
    if job.execution_time_ms is not None and job.ended:
        parts.append(f"{job.execution_time_ms / 1000:.2f} s")
    if job.ended and (rate := tokens_per_second(job)) is not None:
        parts.append(f"{rate:.0f} tokens/s")
    if job.cached:
        parts.append("from the cache")
    return " · ".join(parts)


def tokens_per_second(job: Job) -> float | None:
    """Tokens made per second of execution; None where nothing was measured or the cache answered."""
    if job.usage is None or not job.execution_time_ms or job.cached:
        return None
    return job.usage.completion_tokens / (job.execution_time_ms / 1000)
