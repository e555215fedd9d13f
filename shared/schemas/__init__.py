"""The wire: what clients send and get. These models validate, and they make the OpenAPI document; nothing else does."""

from shared.schemas.answers import (
    Accepted,
    Alive,
    BatchAccepted,
    BatchJob,
    BatchView,
    ChoiceView,
    Counts,
    DeadLetterView,
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
    PurgedView,
    QueueView,
    RequeueLinks,
    TurnView,
    UsageReport,
    UsageRowView,
    UsageView,
    WorkerView,
)
from shared.schemas.queries import (
    BatchPath,
    ConditionalHeader,
    DeadLetterPath,
    JobPath,
    JobsQuery,
    KeyPath,
    NoQuery,
    PageQuery,
    PreferHeader,
    QueuePath,
    UsageQuery,
    UserPath,
    WaitQuery,
)
from shared.schemas.requests import BatchItem, BatchRequest, GenerateRequest, KeyRequest, Options, Wire, bounded
from shared.schemas.text import Answer, iso, milliseconds

__all__ = [
    "Accepted", "Alive", "Answer", "BatchAccepted", "BatchItem", "BatchJob", "BatchPath", "BatchRequest", "BatchView",
    "ChoiceView", "ConditionalHeader", "Counts", "DeadLetterPath", "DeadLetterView", "ErrorBody", "ErrorDetail", "FailureView", "GenerateRequest", "Health",
    "HistoryTurn", "HistoryView", "JobLinks", "JobPath", "JobView", "JobsQuery", "KeyPath", "KeyRequest", "KeyView",
    "Links", "ModeView", "ModelView", "NewKeyView", "NoQuery", "Options", "Page", "PageQuery", "PreferHeader", "PurgedView",
    "QueuePath", "QueueView", "RequeueLinks", "TurnView", "UsageQuery", "UsageReport", "UsageRowView", "UsageView", "UserPath", "WaitQuery", "Wire", "WorkerView", "bounded", "iso", "milliseconds",
]  # fmt: skip
