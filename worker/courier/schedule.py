"""What an answer means, and when to try again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from shared.webhooks import Attempt, Verdict

JITTER = 0.1
LONGEST_RETRY_AFTER_S = 86_400.0
GONE = 410
BUSY = frozenset({429, 502, 503, 504})
"""Answers whose ``Retry-After`` is honoured."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of an attempt: a status, or an error where there was none."""

    status: int | None = None
    error: str | None = None
    retry_after: str | None = None


@dataclass(frozen=True, slots=True)
class Schedule:
    """``delays_s``: after each failed attempt, until the next one; when they are used up, the delivery has failed."""

    delays_s: Sequence[float]

    def judge(self, answer: Answer, step: int) -> Attempt:
        """What an attempt came to. step: which one of the schedule it was, from 1."""
        status = answer.status
        if status is not None and 200 <= status < 300:
            return Attempt(Verdict.DELIVERED, status)
        error = answer.error or _said(status)
        if status == GONE:
            return Attempt(Verdict.FAILED, status, error, disable="gone")
        if step > len(self.delays_s):
            return Attempt(Verdict.FAILED, status, error)
        delay = self.delays_s[step - 1] * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  # nosec B311  # spreads, protects nothing
        if status in BUSY:
            delay = max(delay, retry_after_s(answer.retry_after))
        return Attempt(Verdict.AGAIN, status, error, retry_in_s=delay)


def _said(status: int | None) -> str:
    if status is not None and 300 <= status < 400:
        return f"Answered {status}; redirects are not followed."
    if status == GONE:
        return "Answered 410: it wants no more."
    return f"Answered {status}."


def retry_after_s(value: str | None) -> float:
    """A ``Retry-After`` in seconds, of either form, at most a day; 0 where there is none that makes sense."""
    if not value:
        return 0.0
    if value.isascii() and value.isdigit():
        return min(float(value[:9]), LONGEST_RETRY_AFTER_S)
    try:
        moment = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max(0.0, (moment - datetime.now(UTC)).total_seconds()), LONGEST_RETRY_AFTER_S)
