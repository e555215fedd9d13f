"""The client: submit jobs, wait for them, look things up."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

import httpx

from smarttextgen.admin_keys import AdminKeys
from smarttextgen.batches import Batches
from smarttextgen.decode import decode
from smarttextgen.errors import JobFailedError
from smarttextgen.events import StreamEvent
from smarttextgen.streaming import JobStream
from smarttextgen.transport import Transport, retry_after
from smarttextgen.types import GenerateOptions, Health, Job, Mode, Model, Page, Turn
from smarttextgen.waiting import wait_until_ended
from smarttextgen.webhooks import Webhooks
from smarttextgen.wire import given, page_of, segment, walk

DEFAULT_URL = "http://127.0.0.1:8000"


class Client:
    """A client of one SmartTextGen service. Safe to share between threads; close it, or use it in ``with``.

    ``base_url`` and ``api_key`` default to SMARTTEXTGEN_URL (else http://127.0.0.1:8000) and SMARTTEXTGEN_API_KEY.
    ``timeout`` is the longest silence in one request, in seconds, on top of what a long poll asks for.
    ``max_retries`` bounds repeats of a request after a lost connection, 429, 502, 503 and 504; nothing is done twice.
    ``transport`` replaces the network (httpx's own, for tests).

    Every method raises: ConnectionFailedError, or the subclass of APIError for the answer's status.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = 30.0,
        max_retries: int = 4,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Raises: ConfigurationError when ``base_url`` is not an http(s) URL."""
        self.base_url = (base_url or os.environ.get("SMARTTEXTGEN_URL") or DEFAULT_URL).rstrip("/")
        key = api_key or os.environ.get("SMARTTEXTGEN_API_KEY")
        self._transport = Transport(self.base_url, key, timeout, max_retries, transport)
        self.batches = Batches(self._transport)
        self.webhooks = Webhooks(self._transport)
        self.keys = AdminKeys(self._transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    # --- jobs

    def submit(
        self, prompt: str | Sequence[int], *, idempotency_key: str | None = None, **options: Unpack[GenerateOptions]
    ) -> Job:
        """Queue a prompt, text or token ids; returns the queued job. Repeats with the same ``idempotency_key`` make no second
        job."""
        body = {"prompt": prompt if isinstance(prompt, str) else list(prompt), **given(options)}
        return decode(Job, self._transport.create("/api/generate", body, idempotency_key))

    def get(self, job_id: str, wait: float | None = None) -> Job:
        """The job as it is, or after up to ``wait`` seconds as it ended.

        Raises: NotFoundError, GoneError.
        """
        return self._get_job(job_id, wait)[0]

    def wait(self, job_id: str, timeout: float | None = None, *, on_update: Callable[[Job], None] | None = None) -> Job:
        """Return the job once it has ended, however it ended. Survives restarts of the service.

        ``on_update`` is called with the job about once a second meanwhile.

        Raises: WaitTimeoutError after ``timeout`` seconds (None: never); NotFoundError, GoneError.
        """
        return wait_until_ended(self._get_job, job_id, timeout, on_update)

    def stream(
        self, job: Job | str, starting_after: int | None = None, *, timeout: float | None = None
    ) -> Generator[StreamEvent, None, None]:
        """The events of a job (or a job's id), each once, as they come; ``Ended`` is the last. Transcript collects them.

        Connects again by itself, through restarts of the service. ``starting_after``: only events after that number.
        Closing it (``contextlib.closing``) before its end closes the connection; the job goes on.

        Raises: WaitTimeoutError after ``timeout`` seconds (None: never; it may be 15 s late), NotFoundError, GoneError
        (the events are no longer there; the job may be), RateLimitedError (too many open streams).
        """
        job_id = job if isinstance(job, str) else job.id
        return JobStream(self._transport, job_id, starting_after, timeout).events()

    def generate(
        self, prompt: str | Sequence[int], *, timeout: float | None = None, **options: Unpack[GenerateOptions]
    ) -> Job:
        """Submit, wait, return the succeeded job.

        Raises: JobFailedError when it ended otherwise, WaitTimeoutError.
        """
        job = self.submit(prompt, **options)
        if not job.ended:
            job = self.wait(job.id, timeout)
        if not job.succeeded:
            raise JobFailedError(job)
        return job

    def cancel(self, job_id: str) -> Job:
        """Cancel a job; a running one may still read ``running`` until its worker has stopped it.

        Raises: ConflictError when it has ended already, NotFoundError.
        """
        return decode(Job, self._transport.request("POST", f"/api/jobs/{segment(job_id)}/cancel").json())

    def retry(self, job_id: str) -> Job:
        """Run a job again that failed, expired or was canceled: same id, next attempt.

        Raises: ConflictError for any other, NotFoundError, GoneError.
        """
        path = f"/api/jobs/{segment(job_id)}/retry"
        return decode(Job, self._transport.request("POST", path, repeatable=False).json())

    def delete(self, job_id: str) -> None:
        """Delete a job with its prompt and output. Raises: NotFoundError."""
        self._transport.request("DELETE", f"/api/jobs/{segment(job_id)}")

    def jobs_page(self, *, cursor: str | None = None, limit: int = 20, **filters: str | None) -> Page[Job]:
        """One page of jobs, newest first. Filters: status, mode, model, user_id, created_after, created_before."""
        body = self._get("/api/jobs", {"limit": limit, "cursor": cursor, **filters})
        return page_of(Job, body)

    def jobs(self, **filters: str | None) -> Iterator[Job]:
        """All jobs, newest first, fetched page by page. The filters are those of ``jobs_page``."""
        return walk(lambda cursor: self.jobs_page(cursor=cursor, limit=100, **filters))

    # --- conversations

    def history(self, user_id: str) -> tuple[Turn, ...]:
        """The conversation that later prompts of this user see, oldest turn first."""
        body = self._get(f"/api/history/{segment(user_id)}")
        return tuple(decode(Turn, each) for each in _items(body, "history", "turns", "data"))

    def delete_history(self, user_id: str) -> None:
        """Forget a conversation."""
        self._transport.request("DELETE", f"/api/history/{segment(user_id)}")

    # --- the service

    def modes(self) -> tuple[Mode, ...]:
        """The modes that prompts can be answered in."""
        return tuple(decode(Mode, each) for each in _items(self._get("/api/modes"), "data", "modes"))

    def models(self) -> tuple[Model, ...]:
        """The models that the service runs."""
        return tuple(decode(Model, each) for each in _items(self._get("/api/models"), "data", "models"))

    def health(self) -> Health:
        """What the service says of itself; needs no key."""
        return decode(Health, self._get("/health"))

    # --- below

    def _get_job(self, job_id: str, wait: float | None, retries: int | None = None) -> tuple[Job, float | None]:
        seconds = None if wait is None else int(wait) if wait >= 1 else 0
        response = self._transport.request(
            "GET",
            f"/api/jobs/{segment(job_id)}",
            params={"wait": seconds or None},
            extra_time=seconds or 0,
            retries=retries,
        )
        return decode(Job, response.json()), retry_after(response)

    def _get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        return self._transport.request("GET", path, params=params).json()


def _items(body: Any, *names: str) -> list[Any]:
    """The list in an answer, under the first of ``names`` that is there."""
    if isinstance(body, list):
        return body
    return next((body[name] for name in names if isinstance(body.get(name), list)), [])
