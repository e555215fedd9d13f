"""Webhooks in Redis: one round trip an operation, each a Lua script of its own beside those of the job store."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self

from shared.errors import EndpointDisabledError, EndpointFixedError, GoneError, NotFoundError, WebhookLimitError
from shared.job import JobRef
from shared.schemas import iso
from shared.settings import Settings
from shared.store import records
from shared.store.connection import Client
from shared.store.protocol import Page
from shared.store.redis_batches import batch_record
from shared.store.scripts import Scripts, Shelf, guarded
from shared.webhooks.protocol import (
    DEFAULT_ENDPOINT,
    ROTATION_OVERLAP_S,
    Attempt,
    Delivery,
    DeliveryStatus,
    Endpoint,
    Errand,
    Message,
    NewEndpoint,
    Taken,
    new_secret,
)

SHELF = Shelf(
    "shared.webhooks",
    ("save", "remove", "list", "secret", "take", "keep", "report", "log", "redeliver", "trial"),
    ("hooks",),
)
SCAN_LIMIT = 2_000
LISTEN_S = 0.5
TEST_EVENT = "webhook.test"
TRACING: Mapping[str, str] = MappingProxyType({"request_id": "X-Request-Id", "traceparent": "traceparent"})


@dataclass(frozen=True, slots=True)
class Limits:
    """How much, and how long. ``lease_s``: how long a courier that took a delivery has for its attempt. ``alive_s``: how long
    one that does not look for work counts as there. ``in_lane``: attempts at a time to one receiver of a tenant."""

    endpoints: int = 20
    log_ttl_s: float = 7 * 86_400
    failing_s: float = 5 * 86_400
    lease_s: float = 30.0
    alive_s: float = 5.0
    in_lane: int = 8

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(
            endpoints=settings.webhook_max_endpoints,
            log_ttl_s=settings.webhook_log_ttl_s,
            failing_s=settings.webhook_failing_s,
            lease_s=2 * settings.webhook_timeout_s,
            in_lane=settings.webhook_per_receiver,
        )


class RedisWebhookStore:
    """The real ``WebhookStore``. Thread-safe. ``script_flags``: see ``RedisStore``."""

    def __init__(self, client: Client, prefix: str, limits: Limits | None = None, *, script_flags: bool = True) -> None:
        self._client = client
        self._prefix = prefix
        self._limits = limits or Limits()
        self._scripts = Scripts(client, prefix, SHELF, flags=script_flags)

    # --- the client's side

    def create(self, tenant: str, new: NewEndpoint) -> Endpoint:
        endpoint_id = f"we_{uuid.uuid4().hex}"
        fields = {
            "url": new.url,
            "events": records.dumps(list(new.events)),
            "description": new.description,
            "secret": new_secret(),
        }
        return self._save(tenant, endpoint_id, fields, most=self._limits.endpoints)

    def _save(self, tenant: str, endpoint_id: str, fields: Mapping[str, str], **more: int) -> Endpoint:
        arguments = {"tenant": tenant, "id": endpoint_id, "fields": fields, **more}
        match self._scripts.run("save", records.dumps(arguments)):
            case ["missing"]:
                raise NotFoundError("No such webhook endpoint.")
            case ["full"]:
                raise WebhookLimitError(f"A tenant may have {self._limits.endpoints} webhook endpoints.")
            case flat:
                return _endpoint(tenant, endpoint_id, flat)

    def get(self, tenant: str, endpoint_id: str) -> Endpoint:
        if endpoint_id == DEFAULT_ENDPOINT:
            return self._secret(tenant, endpoint_id, -1)
        for found_id, flat in self._scripts.run("list", tenant, endpoint_id):
            return _endpoint(tenant, found_id, flat)
        raise NotFoundError("No such webhook endpoint.")

    def list_endpoints(self, tenant: str) -> tuple[Endpoint, ...]:
        rows = self._scripts.run("list", tenant, "")
        return tuple(_endpoint(tenant, endpoint_id, flat) for endpoint_id, flat in rows)

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
        _refuse_default(endpoint_id)
        fields = {
            "url": url,
            "events": None if events is None else records.dumps(list(events)),
            "description": description,
            "status": None if enabled is None else "enabled" if enabled else "disabled",
        }
        return self._save(tenant, endpoint_id, records.without_none(fields))

    def delete(self, tenant: str, endpoint_id: str) -> None:
        _refuse_default(endpoint_id)
        if not self._scripts.run("remove", tenant, endpoint_id):
            raise NotFoundError("No such webhook endpoint.")

    def rotate(self, tenant: str, endpoint_id: str) -> Endpoint:
        return self._secret(tenant, endpoint_id, ROTATION_OVERLAP_S * 1000)

    def _secret(self, tenant: str, endpoint_id: str, overlap_ms: int) -> Endpoint:
        flat = self._scripts.run("secret", tenant, endpoint_id, new_secret(), overlap_ms)
        if flat is None:
            raise NotFoundError("No such webhook endpoint.")
        return _endpoint(tenant, endpoint_id, flat)

    def deliveries(
        self, tenant: str, endpoint_id: str, status: DeliveryStatus | None, cursor: str | None, limit: int
    ) -> Page[Delivery]:
        before = records.parse_cursor(cursor)
        self.get(tenant, endpoint_id)
        arguments = records.without_none(
            {
                "tenant": tenant,
                "endpoint": endpoint_id,
                "status": status,
                "before": before,
                "limit": limit,
                "scan": SCAN_LIMIT,
            }
        )
        following, *rows = self._scripts.run("log", records.dumps(arguments))
        found = tuple(_delivery(tenant, delivery_id, records.pairs(flat)) for delivery_id, flat in rows)
        return Page(found, None if int(following) < 0 else str(following))

    def redeliver(self, tenant: str, endpoint_id: str, delivery_id: str) -> Delivery:
        answer = self._scripts.run("redeliver", tenant, endpoint_id, delivery_id)
        return _delivery_of(tenant, delivery_id, answer, "delivery")

    def trial(self, tenant: str, endpoint_id: str) -> Delivery:
        _refuse_default(endpoint_id)
        seconds, micros = guarded(self._client.time)
        moment = iso(int(seconds) * 1000 + int(micros) // 1000)
        number = uuid.uuid4().hex[:24]
        payload = records.dumps({"type": TEST_EVENT, "timestamp": moment, "data": {"endpoint_id": endpoint_id}})
        delivery_id = f"dlv_{number}"
        answer = self._scripts.run("trial", tenant, endpoint_id, f"msg_{number}", delivery_id, payload)
        return _delivery_of(tenant, delivery_id, answer, "webhook endpoint")

    # --- the courier's side

    def take(self, courier: str, room: int, lanes: Mapping[str, int]) -> Taken:
        arguments = {
            "courier": courier,
            "alive_ms": int(self._limits.alive_s * 1000),
            "lease_ms": int(self._limits.lease_s * 1000),
            "keep_ms": int(self._limits.log_ttl_s * 1000),
            "room": room,
            "lanes": lanes,
            "in_lane": self._limits.in_lane,
            "look": len(lanes) + room + 1,
            "seed": uuid.uuid4().hex[:20],
        }
        rows, now, due = self._scripts.run("take", records.dumps(arguments))
        due_ms = float(due)
        next_in_s = None if due_ms < 0 else max(0.0, (due_ms - int(now)) / 1000)
        return Taken(tuple(_errand(row, int(now)) for row in rows), next_in_s)

    def keep(self, errand: Errand, payload: str) -> str | None:
        kept: str | None = self._scripts.run("keep", errand.delivery.tenant, errand.message.id, payload)
        return kept

    def report(self, errand: Errand, attempt: Attempt) -> bool:
        arguments = records.without_none(
            {
                "tenant": errand.delivery.tenant,
                "id": errand.delivery.id,
                "lease": errand.lease,
                "what": attempt.verdict,
                "response_status": attempt.response_status,
                "error": attempt.error,
                "retry_ms": int(attempt.retry_in_s * 1000),
                "disable": attempt.disable,
                "failing_ms": int(self._limits.failing_s * 1000),
                "keep_ms": int(self._limits.log_ttl_s * 1000),
            }
        )
        return bool(self._scripts.run("report", records.dumps(arguments)))

    def leave(self, courier: str) -> None:
        guarded(lambda: self._client.zrem(f"{self._prefix}couriers", courier))

    def couriers(self) -> tuple[str, ...]:
        seconds, microseconds = guarded(self._client.time)
        now_ms = seconds * 1000 + microseconds // 1000
        return tuple(guarded(lambda: self._client.zrangebyscore(f"{self._prefix}couriers", now_ms, "+inf")))

    def listen(self, news: Callable[[], None], ended: threading.Event) -> None:
        with self._client.pubsub() as subscription:  # type: ignore[no-untyped-call]  # redis-py leaves it bare
            guarded(lambda: subscription.subscribe(f"{self._prefix}posted"))
            while not ended.is_set():
                if guarded(lambda: subscription.get_message(timeout=LISTEN_S)) is not None:
                    news()


def _refuse_default(endpoint_id: str) -> None:
    if endpoint_id == DEFAULT_ENDPOINT:
        raise EndpointFixedError()


def _endpoint(tenant: str, endpoint_id: str, flat: Sequence[str]) -> Endpoint:
    fields = records.pairs(flat)
    return Endpoint(
        tenant=tenant,
        id=endpoint_id,
        url=fields.get("url"),
        events=tuple(json.loads(fields["events"])),
        description=fields.get("description", ""),
        enabled=fields["status"] == "enabled",
        created_at=int(fields["created_at"]),
        secret=fields["secret"],
        disabled_reason=fields.get("disabled_reason"),
    )


def _delivery_of(tenant: str, delivery_id: str, answer: list[Any], what: str) -> Delivery:
    """Raises: NotFoundError, GoneError, EndpointDisabledError."""
    match answer:
        case ["ok", flat]:
            return _delivery(tenant, delivery_id, records.pairs(flat))
        case ["gone"]:
            raise GoneError("What this delivery told is not kept any more.")
        case ["disabled"]:
            raise EndpointDisabledError()
        case _:
            raise NotFoundError(f"No such {what}.")


def _delivery(tenant: str, delivery_id: str, fields: Mapping[str, str]) -> Delivery:
    def number(name: str) -> int | None:
        return int(fields[name]) if name in fields else None

    return Delivery(
        tenant=tenant,
        id=delivery_id,
        message_id=fields["message"],
        endpoint_id=fields["endpoint"],
        type=fields["type"],
        url=fields["url"],
        status=DeliveryStatus(fields["status"]),
        attempts=int(fields["attempts"]),
        created_at=int(fields["created_at"]),
        job_id=fields.get("job_id"),
        batch_id=fields.get("batch_id"),
        response_status=number("response_status"),
        error=fields.get("error"),
        next_attempt_at=number("next_at"),
        delivered_at=number("delivered_at"),
    )


def _errand(row: list[Any], now: int) -> Errand:
    member, flat, endpoint_flat, message_flat, turns = row
    ref = JobRef.parse(member)  # a member names a tenant and something of it
    fields, endpoint = records.pairs(flat), records.pairs(endpoint_flat)
    told = records.pairs(message_flat)
    message = _message(ref.tenant, fields["message"], told, turns)
    secrets = [endpoint["secret"]] if "secret" in endpoint else []
    if int(endpoint.get("old_until", 0)) > now:
        secrets.append(endpoint["old_secret"])
    return Errand(
        delivery=_delivery(ref.tenant, ref.id, fields),
        message=message,
        lease=fields["lease"],
        lane=fields["lane"],
        step=int(fields["step"]),
        secrets=tuple(secrets),
        headers={header: told[name] for name, header in TRACING.items() if name in told},
    )


def _message(tenant: str, message_id: str, fields: Mapping[str, str], turns: Sequence[str]) -> Message:
    job = batch = None
    if "record" in fields and "job_id" in fields:
        job = records.job(tenant, fields["job_id"], json.loads(fields["record"]), history=turns)
    elif "record" in fields:
        batch = batch_record(tenant, fields["batch_id"], [json.loads(fields["record"]), None])
    return Message(
        id=message_id,
        type=fields["type"],
        at=int(fields["at"]),
        payload=fields.get("payload"),
        job=job,
        batch=batch,
        text=fields.get("text"),
    )
