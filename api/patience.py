"""How long a client wants its request to wait for the end of a job, and the waiting."""

from __future__ import annotations

import re
import time

from flask import Response

from api.services import services
from api.waiting import Expectation
from shared.job import Job, JobRef
from shared.schemas import PreferHeader, WaitQuery

_WAIT = re.compile(r"wait(?:\s*=\s*\"?(\d{1,9})\"?)?", re.IGNORECASE)


def preferred(header: PreferHeader) -> int | None:
    """Seconds in ``Prefer: wait=N``, at most what the settings allow; ``wait`` alone is as long as possible (Replicate's
    convention). None where it says nothing of waiting."""
    longest = services().settings.max_wait_s
    for preference in (header.prefer or "").split(","):
        match = _WAIT.fullmatch(preference.split(";")[0].strip())
        if match:
            return longest if match[1] is None else min(int(match[1]), longest)
    return None


def patience(query: WaitQuery, header: PreferHeader) -> int:
    """Seconds to wait. The query is a demand, and comes before the preference."""
    return query.wait if query.wait is not None else preferred(header) or 0


def say_applied(response: Response, header: PreferHeader) -> None:
    """RFC 7240: say so where a preference was followed."""
    if response.status_code == 200 and (seconds := preferred(header)):
        response.headers["Preference-Applied"] = f"wait={seconds}"


def until_ended(ref: JobRef, expectation: Expectation, seconds: float) -> Job:
    """Wait for an end and read the job; one read where nothing goes wrong. The job as it is where the time is over.

    Raises: NotFoundError, GoneError, StoreUnavailableError.
    """
    deadline = time.monotonic() + seconds
    while True:
        woken = expectation.wait(deadline - time.monotonic())
        job = services().store.get(ref)
        if job.status.ended or not woken or not expectation.admitted:
            return job


def look_and_wait(ref: JobRef, expectation: Expectation, seconds: float) -> Job:
    """The job, which may have ended long ago; where it has not, after a wait. At most two reads where nothing goes wrong.

    Raises: as ``until_ended``.
    """
    job = services().store.get(ref)
    if job.status.ended or not seconds or not expectation.admitted:
        return job
    return until_ended(ref, expectation, seconds)
