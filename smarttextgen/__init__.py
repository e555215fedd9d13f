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
)
from smarttextgen.types import (
    ApiKey,
    Batch,
    BatchJob,
    BatchRequest,
    Choice,
    GenerateOptions,
    Health,
    Job,
    JobError,
    JobUrls,
    Mode,
    Model,
    Page,
    Turn,
    Usage,
)

__version__ = "0.1.0"

__all__ = [
    "APIError",
    "ApiKey",
    "AuthenticationError",
    "Batch",
    "BatchJob",
    "BatchRequest",
    "Choice",
    "Client",
    "ConfigurationError",
    "ConflictError",
    "ConnectionFailedError",
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
    "Page",
    "PermissionDeniedError",
    "RateLimitedError",
    "ServerError",
    "SmartTextGenError",
    "Turn",
    "UnavailableError",
    "Usage",
    "WaitTimeoutError",
]
