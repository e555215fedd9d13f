"""``client.webhooks`` and ``verify_webhook``."""

from __future__ import annotations

import base64
import email.message
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import pytest
import standardwebhooks

from smarttextgen import Client, ConfigurationError, ConnectionFailedError, NotFoundError, verify_webhook
from smarttextgen.errors import WebhookVerificationError
from tests.smarttextgen.fake_api import Failure, FakeApi
from tests.smarttextgen.fake_webhooks import DEFAULT_SECRET, NEW_SECRET

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
OLD_SECRET = "whsec_" + base64.b64encode(b"fedcba9876543210fedcba9876543210").decode()


def test_endpoints(api: FakeApi, client: Client) -> None:
    made = client.webhooks.create("https://example.org/hook", events=["job.failed"], description="shop")
    assert (made.id, made.secret, made.events) == ("we_1", NEW_SECRET, ("job.failed",))
    client.webhooks.create("https://example.org/hook")
    assert api.seen[-1].body == {"url": "https://example.org/hook"}
    assert [each.id for each in client.webhooks.list()] == ["we_1", "we_2"]
    assert client.webhooks.update("we_1", status="disabled").status == "disabled"
    assert api.seen[-1].body == {"status": "disabled"}
    assert client.webhooks.get("we_1").secret is None
    assert client.webhooks.rotate_secret("we_1").secret == NEW_SECRET
    assert client.webhooks.default_secret() == DEFAULT_SECRET
    client.webhooks.delete("we_1")
    with pytest.raises(NotFoundError):
        client.webhooks.get("we_1")


def test_deliveries(client: Client) -> None:
    delivery = client.webhooks.test("default")
    assert (delivery.id, delivery.status) == ("dlv_1", "pending")
    assert client.webhooks.redeliver("default", delivery.id).id == "dlv_2"
    assert [each.id for each in client.webhooks.deliveries("default")] == ["dlv_2", "dlv_1"]
    assert list(client.webhooks.deliveries("default", status="failed")) == []


def test_what_shows_a_secret_or_sends_is_not_repeated(api: FakeApi, client: Client) -> None:
    api.fail_next(Failure(0, handled=True))
    with pytest.raises(ConnectionFailedError):
        client.webhooks.create("https://example.org/hook")
    api.fail_next(Failure(0, handled=True))
    with pytest.raises(ConnectionFailedError):
        client.webhooks.test("default")
    assert len(api.seen) == 2


# --- receiving


def signed(
    body: bytes, *secrets: str, at: float | None = None, message_id: str = "msg_1", **changes: str
) -> dict[str, str]:
    """Headers as the service sends them, made without the package that checks them."""
    timestamp = str(int(time.time() if at is None else at))
    signatures = []
    for secret in secrets or (SECRET,):
        key = base64.b64decode(secret.removeprefix("whsec_"))
        digest = hmac.new(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
        signatures.append("v1," + base64.b64encode(digest).decode())
    headers = {
        "Webhook-Id": message_id,
        "Webhook-Timestamp": timestamp,
        "Webhook-Signature": " ".join(signatures),
        "Content-Type": "application/json",
    }
    return headers | {name.replace("_", "-").title(): value for name, value in changes.items()}


def payload(kind: str, data: Mapping[str, object]) -> bytes:
    event = {"type": kind, "timestamp": "2026-11-22T12:00:00Z", "data": data}
    return json.dumps(event, ensure_ascii=False).encode()


JOB = payload("job.succeeded", {"id": "job_1", "status": "succeeded", "output": "我的包裹 🧦"})


def test_an_event_about_a_job() -> None:
    event = verify_webhook(JOB, signed(JOB), SECRET)
    assert (event.id, event.type, event.timestamp) == ("msg_1", "job.succeeded", "2026-11-22T12:00:00Z")
    assert event.job is not None
    assert event.job.output == event.data["output"] == "我的包裹 🧦"
    assert event.batch is None


def test_an_event_about_a_batch_and_one_of_tomorrow() -> None:
    body = payload("batch.completed", {"id": "batch_1", "status": "completed", "counts": {"total": 3}})
    event = verify_webhook(body, signed(body), SECRET)
    assert event.batch is not None
    assert event.batch.counts == {"total": 3}
    for body in (payload("key.revoked", {"x": 1}), b'{"type": "ping"}'):
        event = verify_webhook(body, signed(body), SECRET)
        assert (event.job, event.batch) == (None, None)


def test_headers_and_body_of_any_framework() -> None:
    headers = email.message.Message()  # what http.server has
    for name, value in signed(JOB).items():
        headers[name] = value
    assert verify_webhook(JOB, headers, SECRET).id == "msg_1"
    lower = {name.lower(): value for name, value in signed(JOB).items()}
    assert verify_webhook(JOB.decode(), lower, SECRET).id == "msg_1"


def test_either_secret_while_one_is_rotated() -> None:
    headers = signed(JOB, SECRET, OLD_SECRET)
    assert verify_webhook(JOB, headers, SECRET) == verify_webhook(JOB, headers, OLD_SECRET)


def test_what_the_package_signs() -> None:
    signature = standardwebhooks.Webhook(SECRET).sign("msg_1", datetime.now(UTC), JOB.decode())
    headers = signed(JOB)
    assert headers["Webhook-Signature"] == signature
    assert verify_webhook(JOB, headers, SECRET).id == "msg_1"


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (JOB + b" ", lambda: signed(JOB)),
        (JOB.replace(b"job_1", b"job_2"), lambda: signed(JOB)),
        (JOB, lambda: signed(JOB, OLD_SECRET)),
        (JOB, lambda: signed(JOB, webhook_id="msg_2")),
        (JOB, lambda: signed(JOB, webhook_timestamp=str(int(time.time()) + 1))),
        (JOB, lambda: signed(JOB, at=time.time() - 301)),
        (JOB, lambda: signed(JOB, at=time.time() + 400)),
        (JOB, lambda: signed(JOB, at=0)),
        (JOB, lambda: signed(JOB, webhook_timestamp="yesterday")),
        (JOB, lambda: signed(JOB, webhook_timestamp="nan")),
        (JOB, lambda: signed(JOB, webhook_timestamp="9" * 400)),
        (JOB, lambda: signed(JOB, webhook_signature="")),
        (JOB, lambda: signed(JOB, webhook_signature="v1,")),
        (JOB, lambda: signed(JOB, webhook_signature="v1")),
        (JOB, lambda: signed(JOB, webhook_signature="v1,a,b")),
        (JOB, lambda: signed(JOB, webhook_signature="v1,!")),
        (JOB, lambda: signed(JOB, webhook_signature="v1,é")),
        (JOB, lambda: {name: value.replace("v1,", "v2,") for name, value in signed(JOB).items()}),
        (JOB, dict),
        (b"\xff\xfe", lambda: signed(b"\xff\xfe")),
        (b"", lambda: signed(b"")),
        (b"no json", lambda: signed(b"no json")),
        (b"[1]", lambda: signed(b"[1]")),
        (b"{}", lambda: signed(b"{}")),
        (b"null", lambda: signed(b"null")),
        (
            payload("job.failed", {"id": "j", "choices": 7}),
            lambda: signed(payload("job.failed", {"id": "j", "choices": 7})),
        ),
    ],
)
def test_what_is_not_trusted(body: bytes, headers: Callable[[], dict[str, str]]) -> None:
    with pytest.raises(WebhookVerificationError):
        verify_webhook(body, headers(), SECRET)


@pytest.mark.parametrize(("seconds", "reason"), [(-301, "too old"), (400, "too new")])
def test_it_says_why(seconds: int, reason: str) -> None:
    with pytest.raises(WebhookVerificationError, match=reason):
        verify_webhook(JOB, signed(JOB, at=time.time() + seconds), SECRET)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_!", "whsec_é", "whsec_a", "stg_YWJj", "bm9uc2Vuc2U="])
def test_what_is_no_secret(secret: str) -> None:
    with pytest.raises(ConfigurationError):
        verify_webhook(JOB, signed(JOB), secret)
