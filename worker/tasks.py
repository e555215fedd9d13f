"""The tasks, three lines each: what they do is elsewhere, where it can be tested without Celery."""

from __future__ import annotations

from collections.abc import Callable

from celery import Celery

from shared.job import JobRef
from shared.queue import GENERATE


def register(app: Celery, run_job: Callable[[JobRef], None]) -> None:
    """Add the tasks to a worker's app."""

    @app.task(name=GENERATE)
    def generate(ref: str) -> None:
        run_job(JobRef.parse(ref))
