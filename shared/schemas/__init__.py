"""The wire: what clients send and get. These models validate, and they make the OpenAPI document; nothing else does."""

from shared.schemas.answers import (
    Accepted,
    Alive,
    BatchAccepted,
    BatchJob,
    BatchView,
    ChoiceView,
    Counts,
    ErrorBody,
    ErrorDetail,
    FailureView,
    Health,
    HistoryTurn,
    HistoryView,
    JobLinks,
    JobView,
    KeyView,
    Links,
    ModelView,
    ModeView,
    NewKeyView,
    Page,
    TurnView,
    UsageView,
)
from shared.schemas.queries import (
    BatchPath,
    ConditionalHeader,
    JobPath,
    JobsQuery,
    KeyPath,
    NoQuery,
    PageQuery,
    PreferHeader,
    UserPath,
    WaitQuery,
)
from shared.schemas.requests import BatchItem, BatchRequest, GenerateRequest, KeyRequest, Options, Wire, bounded
from shared.schemas.text import Answer, iso, milliseconds

__all__ = [
    "Accepted", "Alive", "Answer", "BatchAccepted", "BatchItem", "BatchJob", "BatchPath", "BatchRequest", "BatchView",
    "ChoiceView", "ConditionalHeader", "Counts", "ErrorBody", "ErrorDetail", "FailureView", "GenerateRequest", "Health",
    "HistoryTurn", "HistoryView", "JobLinks", "JobPath", "JobView", "JobsQuery", "KeyPath", "KeyRequest", "KeyView",
    "Links", "ModeView", "ModelView", "NewKeyView", "NoQuery", "Options", "Page", "PageQuery", "PreferHeader", "TurnView",
    "UsageView", "UserPath", "WaitQuery", "Wire", "bounded", "iso", "milliseconds",
]  # fmt: skip
