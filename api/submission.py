"""Taking jobs in: the submit, its idempotency, its hints."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog
from flask import Response, request
from pydantic import BaseModel

from api.errors import ValidationFailedError
from api.hints import Hints
from api.identity import KeyMemory, caller
from api.limits import WINDOW_S
from api.tracing import request_id, traceparent
from shared.errors import AuthenticationError, UnavailableError
from shared.settings import Settings
from shared.store.batches import BatchReceipt, NewBatch
from shared.store.protocol import Idempotency, JobStore, NewJob, RateLimit, Receipt, Submission

R = TypeVar("R", Receipt, BatchReceipt)

log = structlog.get_logger(__name__)

REPLAYED_HEADERS = ("Location", "Retry-After", "Preference-Applied")

REPLAY_GRACE_S = 10
"""A first request that waits counts as being handled for its wait and so much more."""

_QUOTED = re.compile(r'"([\x21\x23-\x7e]{1,255})"')
_BARE = re.compile(r"[\x21\x23-\x7e]{1,255}")


def idempotency_key() -> str | None:
    """The request's ``Idempotency-Key``, quoted or bare. Raises: ValidationFailedError."""
    given = request.headers.get("Idempotency-Key")
    if given is None:
        return None
    match = _QUOTED.fullmatch(given)
    key = match[1] if match else given
    if not _BARE.fullmatch(key):
        message = "Idempotency-Key: 1 to 255 printable ASCII characters, quoted or bare."
        raise ValidationFailedError(message, param="Idempotency-Key")
    return key


def new_id(kind: str) -> str:
    """An id of ours: ``job_…`` or ``batch_…``."""
    return f"{kind}_{uuid.uuid4().hex}"


def idempotency_of(body: BaseModel, ttl_s: int, seconds: int) -> Idempotency | None:
    """What the store has to remember of this request, if it carries a key. Its scope names tenant, method and path; the
    fingerprint is of what the body means, so that spacing and the order of names do not count. seconds: how long it may
    wait for an end."""
    key = idempotency_key()
    if key is None:
        return None
    meaning = json.dumps(body.model_dump(mode="json"), sort_keys=True)
    scope = _digest(caller().tenant, request.method, request.path, key)
    return Idempotency(scope, _digest(meaning), ttl_s, seconds + REPLAY_GRACE_S if seconds else 0)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Submitter:
    """Takes jobs in."""

    store: JobStore
    hints: Hints
    keys: KeyMemory
    settings: Settings

    def submit(
        self, jobs: tuple[NewJob, ...], *, idempotency: Idempotency | None = None, chosen_id: bool = False
    ) -> Receipt:
        """Admit jobs, all of them or none, and tell the workers what to run next.

        Raises: what ``JobStore.submit`` raises.
        """
        with self._watching_the_key():
            receipt = self.store.submit(self._submission(jobs, idempotency, chosen_id=chosen_id))
        if len(receipt.ids) == 1:
            structlog.contextvars.bind_contextvars(job_id=receipt.ids[0])
        self.hints.send(receipt.hints)
        return receipt

    def submit_batch(
        self, batch: NewBatch, jobs: tuple[NewJob, ...], *, idempotency: Idempotency | None = None
    ) -> BatchReceipt:
        """Admit jobs as a batch, and get all of them into line.

        Raises: what ``BatchStore.submit_batch`` raises.
        """
        with self._watching_the_key():
            receipt = self.store.submit_batch(self._submission(jobs, idempotency), batch)
        structlog.contextvars.bind_contextvars(batch_id=batch.id)
        self.hints.send(receipt.hints)
        if receipt.more:
            self.go_on(batch.id)
        return receipt

    def go_on(self, batch_id: str) -> None:
        """Bring what was begun with a batch to its end. Where Redis goes away over it, the reconciler does."""
        more = True
        while more:
            try:
                more, hints = self.store.step_batch(caller().tenant, batch_id)
            except UnavailableError as error:
                log.warning("left to the reconciler", batch_id=batch_id, code=error.code)
                return
            self.hints.send(hints)

    def _submission(
        self, jobs: tuple[NewJob, ...], idempotency: Idempotency | None, *, chosen_id: bool = False
    ) -> Submission:
        key = caller()
        return Submission(
            tenant=key.tenant,
            key_id=key.id,
            jobs=jobs,
            request_id=request_id(),
            traceparent=traceparent(),
            key_digest=key.digest,
            idempotency=idempotency,
            rate_limit=RateLimit(
                key.id, key.requests_per_minute or self.settings.default_requests_per_minute, WINDOW_S
            ),
            max_queued=key.max_queued or self.settings.default_max_queued,
            max_waiting=self.settings.max_waiting,
            tokens_per_day=key.tokens_per_day,
            weight=key.weight,
            chosen_id=chosen_id,
        )

    @contextmanager
    def _watching_the_key(self) -> Iterator[None]:
        """A key that the store refuses is not remembered any longer."""
        try:
            yield
        except AuthenticationError:
            self.keys.forget(caller().id)
            raise

    def remember(self, idempotency: Idempotency | None, response: Response) -> None:
        """Keep an answer that a replay could not rebuild."""
        if idempotency is None:
            return
        headers = {name: response.headers[name] for name in REPLAYED_HEADERS if name in response.headers}
        # Log-probabilities can make an answer megabytes, which are kept for a day.
        body = base64.b85encode(zlib.compress(response.get_data())).decode()
        kept = {"status": response.status_code, "headers": headers, "packed": body}
        try:
            self.store.complete_idempotent(idempotency.scope, json.dumps(kept))
        except UnavailableError as error:
            log.warning("answer not kept for replays", code=error.code)


def replay(receipt: R, rebuild: Callable[[R], Response]) -> Response:
    """The first request's answer again: the stored one, or the same one rebuilt from the receipt."""
    if receipt.response:
        kept: dict[str, Any] = json.loads(receipt.response)
        body = zlib.decompress(base64.b85decode(kept["packed"]))
        response = Response(body, kept["status"], kept["headers"], mimetype="application/json")
    else:
        response = rebuild(receipt)
    response.headers["Idempotent-Replayed"] = "true"
    return response
