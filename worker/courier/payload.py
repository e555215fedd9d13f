"""What a webhook says: the one body that every attempt of a message sends."""

from __future__ import annotations

import json
from typing import Any

from shared.schemas import iso
from shared.views import batch_summary, job_view
from shared.webhooks import Message


def render(message: Message) -> str:
    """``{"type", "timestamp", "data"}`` as compact JSON. ``timestamp``: when it happened."""
    body = {"type": message.type, "timestamp": iso(message.at), "data": _data(message)}
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


def _data(message: Message) -> dict[str, Any]:
    if message.batch is not None:
        return batch_summary(message.batch).model_dump(mode="json", by_alias=True)
    assert message.job is not None
    job = message.job
    if message.type == "job.output":
        return {"id": job.id, "status": job.status.value, "attempt": job.attempt, "output": message.text or ""}
    return job_view(job, logprobs=False).model_dump(mode="json", by_alias=True)
