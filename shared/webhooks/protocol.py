"""What is kept of webhooks, and the operations on it, each atomic and safe to repeat.

A **message** is one event, told under one id (``webhook-id``). A **delivery** is one message to one endpoint. The store
posts messages itself, in the script that brings the event about; the courier takes deliveries, sends them and reports.
"""

from __future__ import annotations

import base64
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from shared.job import Job
from shared.store.batches import Batch
from shared.store.protocol import Page

DEFAULT_ENDPOINT = "default"
"""The built-in endpoint of every tenant: the secret and the log of the webhooks that jobs and batches bring along."""

SECRET_BYTES = 32
ROTATION_OVERLAP_S = 86_400
"""How long a secret that was replaced signs along."""


def new_secret() -> str:
    """``whsec_`` and 256 random bits in base64, as Standard Webhooks has it."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


@dataclass(frozen=True, slots=True)
class NewEndpoint:
    """What to make. ``events``: types of messages that it is to get."""

    url: str
    events: tuple[str, ...]
    description: str = ""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint. ``url`` is None for the built-in one. ``disabled_reason``: ``requested``, ``gone`` (it answered 410) or
    ``failing`` (it failed for days). ``secret``: the newest."""

    tenant: str
    id: str
    url: str | None
    events: tuple[str, ...]
    description: str
    enabled: bool
    created_at: int
    secret: str = field(repr=False)
    disabled_reason: str | None = None


class DeliveryStatus(StrEnum):
    """Where a delivery is in its life."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Delivery:
    """A row of an endpoint's log. ``response_status`` and ``error`` are of the latest attempt."""

    tenant: str
    id: str
    message_id: str
    endpoint_id: str
    type: str
    url: str
    status: DeliveryStatus
    attempts: int
    created_at: int
    job_id: str | None = None
    batch_id: str | None = None
    response_status: int | None = None
    error: str | None = None
    next_attempt_at: int | None = None
    delivered_at: int | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """What is to be told. ``payload`` is its text once it was rendered; until then the job or the batch as it was when it
    happened, for ``job.output`` with the text so far."""

    id: str
    type: str
    at: int
    payload: str | None = None
    job: Job | None = None
    batch: Batch | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Errand:
    """A delivery that this courier is to attempt now, and may report on while it holds the lease. ``lane`` is shared by the
    deliveries of a tenant to one receiver; ``step`` counts the attempts of the schedule, from 1. secrets: those that sign, the
    newest first. headers: of the request that the event goes back to (``X-Request-Id``, ``traceparent``)."""

    delivery: Delivery
    message: Message
    lease: str
    lane: str
    step: int
    secrets: tuple[str, ...] = field(default=(), repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Taken:
    """What to send now, and in how many seconds to look again (None: when there is news)."""

    errands: tuple[Errand, ...]
    next_in_s: float | None


class Verdict(StrEnum):
    """What an attempt came to."""

    DELIVERED = "delivered"
    AGAIN = "again"
    FAILED = "failed"
    BACK = "back"  # cut short by this courier's own end: another one tries it


@dataclass(frozen=True, slots=True)
class Attempt:
    """A report. ``disable``: why the endpoint gets no more; with FAILED."""

    verdict: Verdict
    response_status: int | None = None
    error: str | None = None
    retry_in_s: float = 0.0
    disable: str | None = None


class WebhookStore(Protocol):
    """Endpoints, messages and deliveries. A ``tenant`` argument scopes the call. Every method may raise
    StoreUnavailableError."""

    # --- the client's side
    def create(self, tenant: str, new: NewEndpoint) -> Endpoint:
        """Make an endpoint. Raises: WebhookLimitError."""
        ...

    def get(self, tenant: str, endpoint_id: str) -> Endpoint:
        """``default`` is always there. Raises: NotFoundError."""
        ...

    def list_endpoints(self, tenant: str) -> tuple[Endpoint, ...]:
        """All but the built-in one, oldest first."""
        ...

    def update(
        self,
        tenant: str,
        endpoint_id: str,
        *,
        url: str | None = None,
        events: tuple[str, ...] | None = None,
        description: str | None = None,
        enabled: bool | None = None,
    ) -> Endpoint:
        """Change what is given. Raises: NotFoundError, EndpointFixedError (the built-in one)."""
        ...

    def delete(self, tenant: str, endpoint_id: str) -> None:
        """The endpoint and its log are gone, and what waits for it is not sent. Raises: NotFoundError,
        EndpointFixedError."""
        ...

    def rotate(self, tenant: str, endpoint_id: str) -> Endpoint:
        """A new secret; the old one signs along for ``ROTATION_OVERLAP_S``. Raises: NotFoundError."""
        ...

    def deliveries(
        self, tenant: str, endpoint_id: str, status: DeliveryStatus | None, cursor: str | None, limit: int
    ) -> Page[Delivery]:
        """The log, newest first. Raises: NotFoundError, InvalidCursorError."""
        ...

    def redeliver(self, tenant: str, endpoint_id: str, delivery_id: str) -> Delivery:
        """Send it again, under the same message id. Raises: NotFoundError, GoneError (what it told is not kept any more),
        EndpointDisabledError."""
        ...

    def trial(self, tenant: str, endpoint_id: str) -> Delivery:
        """Send a test event. Raises: NotFoundError, EndpointFixedError, EndpointDisabledError."""
        ...

    # --- the courier's side
    def take(self, courier: str, room: int, lanes: Mapping[str, int]) -> Taken:
        """Turn posted messages into deliveries, and lease up to ``room`` of those that are due. ``lanes``: how many more this
        courier may send there, where it is not the usual number."""
        ...

    def keep(self, errand: Errand, payload: str) -> str | None:
        """Keep the text of a message before it is first sent; returns what all its attempts send. None where it was deleted
        meanwhile: nothing may be sent."""
        ...

    def report(self, errand: Errand, attempt: Attempt) -> bool:
        """Say how an attempt went; False where the lease is over and somebody else has it."""
        ...

    def leave(self, courier: str) -> None:
        """This courier is off the list."""
        ...

    def couriers(self) -> tuple[str, ...]:
        """The names of the couriers that have looked for work lately."""
        ...

    def listen(self, news: Callable[[], None], ended: threading.Event) -> None:
        """Call ``news`` whenever something was posted, until ``ended`` is set. What is posted while nobody listens is found by
        the next ``take``."""
        ...
