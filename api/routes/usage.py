"""What a tenant used."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from flask import Response

from api.identity import caller
from api.rendering import answer
from api.routing import Route
from api.services import services
from shared.schemas import UsageQuery, UsageReport, UsageRowView
from shared.store.protocol import UsageRow


def routes() -> list[Route]:
    return [Route("GET", "/api/usage", get_usage, "usage", {200: UsageReport})]


def get_usage(query: UsageQuery) -> Response:
    """Get the tokens used.

    Of all keys of the tenant. Every job that ran counts, also where it was canceled or expired; what the cache served
    counts as a job without tokens.
    """
    today = datetime.now(UTC).date()
    first = today - timedelta(days=query.days - 1)
    rows = services().store.usage(caller().tenant, first, today)
    views = grouped(rows, query.group_by.split(","))
    return answer(UsageReport(first_day=first.isoformat(), last_day=today.isoformat(), data=views))


def grouped(rows: Sequence[UsageRow], by: Sequence[str]) -> list[UsageRowView]:
    """Sums of the rows that agree in what they are grouped by, in that order."""
    sums: dict[tuple[str | None, str | None, str | None], list[int]] = {}
    for row in rows:
        day = row.day.isoformat() if "day" in by else None
        group = (day, row.key_id if "key" in by else None, row.model if "model" in by else None)
        total = sums.setdefault(group, [0, 0, 0, 0])
        for place, count in enumerate((row.jobs, row.prompt_tokens, row.completion_tokens, row.cached_tokens)):
            total[place] += count
    return [
        UsageRowView(
            day=day, key_id=key_id, model=model, jobs=jobs, prompt_tokens=prompt, completion_tokens=completion,
            total_tokens=prompt + completion, cached_tokens=cached,
        )
        for (day, key_id, model), (jobs, prompt, completion, cached) in sorted(sums.items(), key=lambda item: str(item[0]))
    ]  # fmt: skip
