"""SmartTextGen's client library.

from smarttextgen import Client

with Client() as client:                       # SMARTTEXTGEN_URL, SMARTTEXTGEN_API_KEY
    print(client.generate("What should I know before a day hike?").output)
"""

from smarttextgen.client import Client
from smarttextgen.errors import (
    APIError,
    AuthenticationError,
    ConfigurationError,
    ConflictError,
    ConnectionFailedError,
    GoneError,
    InvalidRequestError,
    JobFailedError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    ServerError,
    SmartTextGenError,
    UnavailableError,
    WaitTimeoutError,
    WebhookVerificationError,
)
from smarttextgen.events import Ended, Output, Queued, Restarted, Started, StreamEvent, Transcript
from smarttextgen.types import (
    ApiKey,
    Batch,
    BatchJob,
    BatchRequest,
    BatchResult,
    Choice,
    Delivery,
    GenerateOptions,
    Health,
    Job,
    JobError,
    JobUrls,
    Mode,
    Model,
    Page,
    ResultPage,
    Turn,
    Usage,
    WebhookEndpoint,
    WebhookEvent,
)
from smarttextgen.verification import verify_webhook

__version__ = "0.1.0"

__all__ = [
    "APIError",
    "ApiKey",
    "AuthenticationError",
    "Batch",
    "BatchJob",
    "BatchRequest",
    "BatchResult",
    "Choice",
    "Client",
    "ConfigurationError",
    "ConflictError",
    "ConnectionFailedError",
    "Delivery",
    "Ended",
    "GenerateOptions",
    "GoneError",
    "Health",
    "InvalidRequestError",
    "Job",
    "JobError",
    "JobFailedError",
    "JobUrls",
    "Mode",
    "Model",
    "NotFoundError",
    "Output",
    "Page",
    "PermissionDeniedError",
    "Queued",
    "RateLimitedError",
    "Restarted",
    "ResultPage",
    "ServerError",
    "SmartTextGenError",
    "Started",
    "StreamEvent",
    "Transcript",
    "Turn",
    "UnavailableError",
    "Usage",
    "WaitTimeoutError",
    "WebhookEndpoint",
    "WebhookEvent",
    "WebhookVerificationError",
    "verify_webhook",
]
