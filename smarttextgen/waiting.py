"""Waiting for a job's end by long polls, through restarts of the service; and other waits that live through them."""

from __future__ import annotations

import time
from collections.abc import Callable

import tenacity

from smarttextgen.errors import ConnectionFailedError, RateLimitedError, ServerError, WaitTimeoutError
from smarttextgen.transport import pause as pause_before_retry
from smarttextgen.types import Job

LONG_POLL_S = 30.0
PROGRESS_POLL_S = 1.0
SHORTEST_PAUSE_S, DEFAULT_PAUSE_S, LONGEST_PAUSE_S = 0.2, 1.0, 5.0

AWAY = (ConnectionFailedError, ServerError, RateLimitedError)

# (job id, seconds to hold the request open, retries) -> the job and the Retry-After that came with it
Fetch = Callable[[str, float, int], tuple[Job, float | None]]


def wait_until_ended(
    fetch: Fetch, job_id: str, timeout: float | None, on_update: Callable[[Job], None] | None = None
) -> Job:
    """Return the job once it has ended; ``on_update`` sees it about once a second until then.

    A service that is away for a while is asked again until ``timeout`` seconds are over (None: for ever).

    Raises: WaitTimeoutError; what ``fetch`` raises, except that the service is away or busy.
    """
    deadline = float("inf") if timeout is None else time.monotonic() + timeout
    poll = LONG_POLL_S if on_update is None else PROGRESS_POLL_S
    job: Job | None = None
    while True:
        asked_at = time.monotonic()
        left = max(0.0, deadline - asked_at)
        try:
            job, pause = fetch(job_id, min(poll, left), 0)
        except AWAY as error:
            if left == 0 and job is None:
                raise  # never seen: say why
            pause = getattr(error, "retry_after", None)
        else:
            if on_update is not None:
                on_update(job)
            if job.ended:
                return job
        if left == 0:
            raise WaitTimeoutError(job_id, timeout or 0.0, job)
        if time.monotonic() - asked_at < poll / 2:  # it did not hold the request open: too busy, or away
            time.sleep(min(left, LONGEST_PAUSE_S, max(SHORTEST_PAUSE_S, DEFAULT_PAUSE_S if pause is None else pause)))


def through_outages(deadline: float) -> tenacity.Retrying:
    """Calls what it is given until the service is there and has time, or ``deadline`` (monotonic seconds) is over."""
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(AWAY),
        stop=lambda _: time.monotonic() >= deadline,
        wait=lambda state: min(pause_before_retry(state), max(0.0, deadline - time.monotonic())),
        reraise=True,
    )
