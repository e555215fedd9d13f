"""What a call can raise.

SmartTextGenError
├── ConfigurationError            the client was told something that cannot be: not a URL
├── ConnectionFailedError         no answer: refused, cut off, timed out
├── APIError                      an answer that is an error: status, code, message, param, request_id, retry_after
│   ├── InvalidRequestError       400, 413, 415, 422: the same request will fail again
│   ├── AuthenticationError       401: no key, an unknown one, a revoked one
│   ├── PermissionDeniedError     403: a valid key without the scope
│   ├── NotFoundError             404: no such object for this key
│   ├── ConflictError             409: the object is in a state that does not allow this
│   ├── GoneError                 410: it was there; its retention is over
│   ├── RateLimitedError          429: too many requests, tokens or queued jobs
│   └── ServerError               5xx: the service's fault
│       └── UnavailableError      503: nothing was accepted; try again later
├── WebhookVerificationError      a delivery whose signature, time or form is wrong: answer it 400, and use nothing of it
├── JobFailedError                the job ended, but did not succeed; it carries the job
└── WaitTimeoutError              the job goes on; only the waiting is over; it carries the job
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smarttextgen.types import Job


class SmartTextGenError(Exception):
    """Base of everything that this package raises on purpose."""


class ConfigurationError(SmartTextGenError):
    """The client was told something that cannot be."""


class ConnectionFailedError(SmartTextGenError):
    """The service gave no answer. ``may_have_arrived`` is False where the request cannot have reached it."""

    def __init__(self, message: str, *, may_have_arrived: bool = True) -> None:
        super().__init__(message)
        self.may_have_arrived = may_have_arrived


class APIError(SmartTextGenError):
    """The service answered with an error.

    ``status`` is HTTP's, ``code`` the stable name of the error, ``param`` the field it is about, ``request_id`` what
    the service's logs know it by, ``retry_after`` the seconds after which to try again. ``should_retry`` is False
    where the service says that trying again is of no use.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str | None = None,
        param: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        should_retry: bool = True,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.param = param
        self.request_id = request_id
        self.retry_after = retry_after
        self.should_retry = should_retry


class InvalidRequestError(APIError):
    """The request is not valid."""


class AuthenticationError(APIError):
    """A valid API key is required."""


class PermissionDeniedError(APIError):
    """This API key may not do this."""


class NotFoundError(APIError):
    """No such object."""


class ConflictError(APIError):
    """The object is in a state that does not allow this."""


class GoneError(APIError):
    """The object's retention is over."""


class RateLimitedError(APIError):
    """Too many requests, tokens or queued jobs."""


class ServerError(APIError):
    """The service failed."""


class UnavailableError(ServerError):
    """The service cannot take this now; nothing was accepted."""


class WebhookVerificationError(SmartTextGenError):
    """The delivery was not signed with this secret, or too long ago, or is no delivery. Use nothing of it."""


class JobFailedError(SmartTextGenError):
    """The job failed, was canceled or expired; ``job`` is how it ended."""

    def __init__(self, job: Job) -> None:
        reason = f": {job.error.message}" if job.error and job.error.message else ""
        super().__init__(f"Job {job.id} {job.status}{reason}")
        self.job = job


class WaitTimeoutError(SmartTextGenError):
    """The job (or batch) has not ended in time; it goes on. ``job`` is its latest state, if one was seen."""

    def __init__(self, job_id: str, timeout: float, job: Job | None = None) -> None:
        super().__init__(f"{job_id} has not ended within {timeout:g} s")
        self.job_id = job_id
        self.job = job


_BY_STATUS: dict[int, type[APIError]] = {
    400: InvalidRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
    413: InvalidRequestError,
    415: InvalidRequestError,
    422: InvalidRequestError,
    429: RateLimitedError,
    503: UnavailableError,
}


def error_class(status: int) -> type[APIError]:
    """The class for an HTTP status."""
    return _BY_STATUS.get(status, ServerError if status >= 500 else APIError)
