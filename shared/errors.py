"""The error tree. Every error a client or an operator can meet is here, with the stable ``code`` that names it.

    SmartTextGenError
    ├── InvalidRequestError           the request itself is wrong; the same request will fail again
    │   ├── UnknownModeError
    │   ├── UnknownModelError
    │   ├── UnknownAdapterError
    │   ├── ContextLengthError        prompt + max_length do not fit the model's context
    │   └── InvalidCursorError
    │       ├── ForeignCursorError    well-formed or not, this object never gave it out
    │       └── StreamCursorError     of an event that is not there yet
    ├── AuthenticationError           no key, an unknown one, or a revoked one
    ├── ScopeError                    a valid key without the scope
    ├── NotFoundError                 no such object for this tenant
    ├── GoneError                     it was there, and its retention is over
    │   └── StreamGoneError           a job's events after a cursor are not kept any more
    ├── ConflictError
    │   ├── JobAlreadyFinishedError
    │   ├── BatchAlreadyFinishedError
    │   ├── JobExistsError            a client-chosen id with another payload
    │   ├── IdempotencyInProgressError
    │   ├── JobNotRetryableError
    │   ├── WebhookLimitError         a tenant's cap of webhook endpoints
    │   ├── EndpointFixedError        the built-in webhook endpoint cannot be changed
    │   └── EndpointDisabledError
    ├── IdempotencyKeyReusedError
    ├── RateLimitedError
    │   ├── QueueLimitError           this key's cap of queued jobs
    │   └── StreamLimitError          this key's cap of open streams
    ├── UnavailableError              nothing was accepted; try again later
    │   ├── StoreUnavailableError     Redis is away
    │   ├── QueueFullError            the whole queue is full
    │   └── StreamsFullError          the process holds as many streams as it may
    ├── EngineError                   the model's side
    │   ├── ModelLoadError
    │   ├── GenerationError           this generation failed; others go on
    │   │   └── EngineMemoryError     the device had no memory for it, even alone
    │   └── EngineStoppedError        the engine is draining or dead
    └── ConfigurationError            a setting or a deployment is wrong

Only the web layer knows which HTTP status belongs to which error.
"""

from __future__ import annotations


class SmartTextGenError(Exception):
    """Base of every error of ours.

    ``message`` is safe to show to a client, ``param`` names the field it is about (or None), and
    ``retryable`` says whether the same thing may succeed later.
    """

    code = "internal_error"
    retryable = False

    def __init__(self, message: str = "", *, param: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])
        self.param = param

    @property
    def message(self) -> str:
        return str(self.args[0])


class InvalidRequestError(SmartTextGenError):
    """The request is not valid."""

    code = "invalid_request"


class UnknownModeError(InvalidRequestError):
    """That mode does not exist."""

    code = "unknown_mode"


class UnknownModelError(InvalidRequestError):
    """That model does not exist."""

    code = "model_not_found"


class UnknownAdapterError(InvalidRequestError):
    """That adapter does not exist."""

    code = "adapter_not_found"


class ContextLengthError(InvalidRequestError):
    """The prompt and max_length do not fit the model's context."""

    code = "context_length_exceeded"


class InvalidCursorError(InvalidRequestError):
    """That cursor was not made by this list."""

    code = "invalid_cursor"


class ForeignCursorError(InvalidCursorError):
    """That cursor is not one of this object's."""


class StreamCursorError(InvalidCursorError):
    """That is no event of this stream."""


class AuthenticationError(SmartTextGenError):
    """A valid API key is required."""

    code = "invalid_api_key"


class ScopeError(SmartTextGenError):
    """This API key does not have the scope that is needed."""

    code = "insufficient_scope"


class NotFoundError(SmartTextGenError):
    """No such object."""

    code = "not_found"


class GoneError(SmartTextGenError):
    """The object's retention is over; it has been deleted."""

    code = "gone"


class StreamGoneError(GoneError):
    """The events after this cursor are not kept any more."""

    code = "stream_gone"


class ConflictError(SmartTextGenError):
    """The object is in a state that does not allow this."""

    code = "conflict"


class JobAlreadyFinishedError(ConflictError):
    """The job has already finished."""

    code = "job_already_finished"


class BatchAlreadyFinishedError(ConflictError):
    """The batch has already completed."""

    code = "batch_already_finished"


class JobExistsError(ConflictError):
    """A job with this id and another payload exists."""

    code = "job_exists"


class JobNotRetryableError(ConflictError):
    """Only failed, expired and canceled jobs can be retried."""

    code = "job_not_retryable"


class WebhookLimitError(ConflictError):
    """This tenant has as many webhook endpoints as it may have."""

    code = "webhook_limit"


class EndpointFixedError(ConflictError):
    """The built-in webhook endpoint cannot be changed, and has no address of its own."""

    code = "webhook_endpoint_fixed"


class EndpointDisabledError(ConflictError):
    """The webhook endpoint is disabled."""

    code = "webhook_endpoint_disabled"


class IdempotencyInProgressError(ConflictError):
    """The first request with this Idempotency-Key is still being handled."""

    code = "idempotency_in_progress"
    retryable = True


class IdempotencyKeyReusedError(SmartTextGenError):
    """This Idempotency-Key was used with another body."""

    code = "idempotency_key_reused"


class RateLimitedError(SmartTextGenError):
    """Too many requests; ``retry_after_s`` says when to try again."""

    code = "rate_limited"
    retryable = True

    def __init__(
        self, message: str = "", *, retry_after_s: int = 1, limit: int | None = None, remaining: int | None = None
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.limit = limit
        self.remaining = remaining


class QueueLimitError(RateLimitedError):
    """This API key has as many jobs waiting as it may have."""

    code = "queue_limit"


class StreamLimitError(RateLimitedError):
    """This API key has as many streams open as it may have."""

    code = "stream_limit"


class UnavailableError(SmartTextGenError):
    """The service cannot take this now; nothing was accepted."""

    code = "unavailable"
    retryable = True
    retry_after_s = 2


class StoreUnavailableError(UnavailableError):
    """Redis does not answer."""

    code = "store_unavailable"


class QueueFullError(UnavailableError):
    """The queue is full."""

    code = "queue_full"


class StreamsFullError(UnavailableError):
    """This process holds as many streams as it may."""

    code = "streams_full"


class EngineError(SmartTextGenError):
    """The model's side failed."""

    code = "engine_error"


class ModelLoadError(EngineError):
    """The model could not be loaded."""

    code = "model_load_failed"


class GenerationError(EngineError):
    """This generation failed."""

    code = "generation_failed"
    retryable = True


class EngineMemoryError(GenerationError):
    """The device has too little free memory for this request, even alone."""

    code = "out_of_memory"


class EngineStoppedError(EngineError):
    """The engine is draining or has stopped."""

    code = "engine_stopped"
    retryable = True


class ConfigurationError(SmartTextGenError):
    """A setting or the deployment is wrong."""

    code = "configuration_error"
