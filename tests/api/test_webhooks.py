"""Webhook endpoints, deliveries and the webhooks of jobs and batches, as clients see them."""

from __future__ import annotations

import json

import pytest

from shared.job import JobRef
from shared.webhooks import Attempt, Verdict
from tests.api.house import House, build, error_of
from worker.courier.payload import render

URL = "https://hooks.example.com/in?x=1"
ENDS = ["job.succeeded", "job.failed", "job.canceled", "job.expired"]


def _make(house: House, **body) -> dict:
    response = house.call("POST", "/api/webhooks", json={"url": URL, **body})
    assert response.status_code == 201, response.text
    return dict(response.json)


def _take(house: House):
    return house.webhooks.take("c1", 100, {}).errands


def test_an_endpoint_is_made_shown_changed_and_deleted(house: House) -> None:
    response = house.call("POST", "/api/webhooks", json={"url": URL, "description": "Shop's"})
    made = response.json
    assert response.headers["Location"] == f"/api/webhooks/{made['id']}"
    assert response.headers["Cache-Control"] == "no-store"
    secret = made.pop("secret")
    assert secret.startswith("whsec_")
    assert made.pop("created_at").endswith("Z")
    assert made == {
        "id": made["id"], "url": URL, "description": "Shop's", "status": "enabled", "disabled_reason": None,
        "events": ["job.started", *ENDS, "batch.completed"],
    }  # fmt: skip
    path = f"/api/webhooks/{made['id']}"
    shown = house.call("GET", path).json
    assert "secret" not in shown
    changed = house.call("PATCH", path, json={"url": "https://b.example.com/", "events": ["job.failed"]}).json
    assert changed == shown | {"url": "https://b.example.com/", "events": ["job.failed"]}
    off = house.call("PATCH", path, json={"status": "disabled"}).json
    assert (off["status"], off["disabled_reason"]) == ("disabled", "requested")
    assert house.call("PATCH", path, json={}).json == off
    rotated = house.call("POST", f"{path}/rotate_secret")
    assert rotated.json["secret"] != secret
    assert rotated.headers["Cache-Control"] == "no-store"
    assert house.call("DELETE", path).status_code == 204
    for method, where in (("GET", path), ("DELETE", path), ("POST", f"{path}/test"), ("GET", f"{path}/deliveries")):
        response = house.call(method, where)
        assert (response.status_code, error_of(response)["code"]) == (404, "not_found"), where


def test_endpoints_are_listed_in_pages_newest_first(house: House) -> None:
    made = [_make(house)["id"] for _ in range(5)]
    page = house.call("GET", "/api/webhooks?limit=2").json
    assert ([each["id"] for each in page["data"]], page["has_more"]) == (made[:2:-1], True)
    page = house.call("GET", f"/api/webhooks?limit=9&cursor={page['next_cursor']}").json
    assert ([each["id"] for each in page["data"]], page["has_more"], page["next_cursor"]) == (made[2::-1], False, None)
    assert house.call("GET", "/api/webhooks", key="rival").json["data"] == []


def test_another_tenants_endpoint_does_not_exist(house: House) -> None:
    path = f"/api/webhooks/{_make(house)['id']}"
    for method, where, body in (
        ("GET", path, None), ("PATCH", path, {"status": "disabled"}), ("DELETE", path, None), ("POST", f"{path}/test", None),
        ("POST", f"{path}/rotate_secret", None), ("GET", f"{path}/deliveries", None),
        ("POST", f"{path}/deliveries/dlv_1/redeliver", None),
    ):  # fmt: skip
        response = house.call(method, where, key="rival", json=body) if body else house.call(method, where, key="rival")
        assert (response.status_code, error_of(response)["code"]) == (404, "not_found"), where
    assert house.call("GET", path, key="admin").status_code == 403


def test_the_built_in_endpoint(house: House) -> None:
    shown = house.call("GET", "/api/webhooks/default").json
    assert (shown["id"], shown["url"], shown["status"]) == ("default", None, "enabled")
    response = house.call("GET", "/api/webhooks/default/secret")
    secret = response.json["secret"]
    assert (list(response.json), response.headers["Cache-Control"]) == (["secret"], "no-store")
    assert house.call("POST", "/api/webhooks/default/rotate_secret").json["secret"] != secret
    for method, path, body in (
        ("PATCH", "/api/webhooks/default", {"status": "disabled"}), ("DELETE", "/api/webhooks/default", None),
        ("POST", "/api/webhooks/default/test", None),
    ):  # fmt: skip
        response = house.call(method, path, json=body) if body else house.call(method, path)
        assert (response.status_code, error_of(response)["code"]) == (409, "webhook_endpoint_fixed"), path
        assert response.headers["x-should-retry"] == "false"


def test_there_is_a_limit() -> None:
    house = build(webhook_max_endpoints=1)
    _make(house)
    response = house.call("POST", "/api/webhooks", json={"url": URL})
    assert (response.status_code, error_of(response)["code"]) == (409, "webhook_limit")


def test_answers_that_hold_a_secret_are_not_replayed(house: House) -> None:
    made = _make(house)["id"]
    for path, body in (("/api/webhooks", {"url": URL}), (f"/api/webhooks/{made}/rotate_secret", None)):
        more = {"json": body} if body else {}
        response = house.call("POST", path, headers={"Idempotency-Key": "k"}, **more)
        assert (response.status_code, error_of(response)["code"]) == (400, "idempotency_not_supported")
    assert len(house.call("GET", "/api/webhooks").json["data"]) == 1


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "url"), ({"url": None}, "url"), ({"url": "http://example.com"}, "url"), ({"url": "https://10.0.0.1/"}, "url"),
        ({"url": "https://localhost/"}, "url"), ({"url": "https://x/\x00"}, "url"), ({"url": URL, "events": []}, "events"),
        ({"url": URL, "events": ["job.done"]}, "events.0"), ({"url": URL, "events": "job.failed"}, "events"),
        ({"url": URL, "events": ["job.failed"] * 8}, "events"), ({"url": URL, "description": "x" * 257}, "description"),
        ({"url": URL, "description": "\x00"}, "description"), ({"url": URL, "secret": "x"}, "secret"),
        ({"url": URL, "status": "disabled"}, "status"),
    ],
    ids=lambda each: ascii(each)[:40],
)  # fmt: skip
def test_a_wrong_endpoint_is_refused(house: House, body: dict, param: str) -> None:
    before = house.written()
    response = house.call("POST", "/api/webhooks", json=body)
    assert (response.status_code, error_of(response)["param"]) == (422, param)
    assert house.written() == before


@pytest.mark.parametrize(
    "body",
    [
        {"url": None},
        {"url": "http://example.com"},
        {"events": None},
        {"events": []},
        {"description": None},
        {"status": "on"},
    ],
    ids=str,
)
def test_a_wrong_change_is_refused(house: House, body: dict) -> None:
    path = f"/api/webhooks/{_make(house)['id']}"
    before = house.written()
    response = house.call("PATCH", path, json=body)
    assert (response.status_code, error_of(response)["param"].split(".")[0]) == (422, next(iter(body)))
    assert house.written() == before


def test_the_deliveries_of_a_job(house: House) -> None:
    job_id = house.submit(webhook=URL, webhook_events_filter=["job.started", "job.succeeded"])
    assert house.call("GET", f"/api/jobs/{job_id}").json["webhook_status"] is None
    house.run(job_id)
    assert house.call("GET", f"/api/jobs/{job_id}").json["webhook_status"] == "pending"
    started, ended = _take(house)
    house.webhooks.report(started, Attempt(Verdict.DELIVERED, 200))
    house.webhooks.report(ended, Attempt(Verdict.FAILED, 500, "Answered 500."))
    assert house.call("GET", f"/api/jobs/{job_id}").json["webhook_status"] == "failed"
    page = house.call("GET", "/api/webhooks/default/deliveries").json
    last, first = page["data"]
    assert (first["type"], first["status"]) == ("job.started", "delivered")
    assert first["delivered_at"] is not None
    created = last.pop("created_at")
    assert created.endswith("Z")
    assert last == {
        "id": ended.delivery.id, "message_id": ended.message.id, "endpoint_id": "default", "type": "job.succeeded",
        "job_id": job_id, "batch_id": None, "url": URL, "status": "failed", "attempts": 1, "response_status": 500,
        "error": "Answered 500.", "next_attempt_at": None, "delivered_at": None,
    }  # fmt: skip
    failed = house.call("GET", "/api/webhooks/default/deliveries?status=failed").json
    assert [each["id"] for each in failed["data"]] == [last["id"]]
    path = f"/api/webhooks/default/deliveries/{last['id']}/redeliver"
    response = house.call("POST", path)
    assert (response.status_code, response.json["status"], response.json["id"]) == (202, "pending", last["id"])
    assert house.call("GET", f"/api/jobs/{job_id}").json["webhook_status"] == "pending"
    house.call("DELETE", f"/api/jobs/{job_id}")
    response = house.call("POST", path)
    assert (response.status_code, error_of(response)["code"]) == (410, "gone")
    for cursor in ("x", "-1", "1e3"):
        response = house.call("GET", f"/api/webhooks/default/deliveries?cursor={cursor}")
        assert (response.status_code, error_of(response)["code"]) == (422, "invalid_cursor")


def test_a_test_event(house: House) -> None:
    endpoint = _make(house, events=["job.failed"])["id"]
    response = house.call("POST", f"/api/webhooks/{endpoint}/test")
    assert (response.status_code, response.json["type"], response.json["status"]) == (202, "webhook.test", "pending")
    (errand,) = _take(house)
    assert errand.delivery.id == response.json["id"]
    house.call("PATCH", f"/api/webhooks/{endpoint}", json={"status": "disabled"})
    response = house.call("POST", f"/api/webhooks/{endpoint}/test")
    assert (response.status_code, error_of(response)["code"]) == (409, "webhook_endpoint_disabled")


def test_what_a_webhook_says_is_what_get_says(house: House) -> None:
    job_id = house.submit(prompt="Grüße", webhook=URL, metadata={"a": "b"})
    house.run(job_id)
    (errand,) = _take(house)
    told = house.call("GET", f"/api/jobs/{job_id}").json
    assert json.loads(render(errand.message))["data"] == told


def test_the_trace_goes_along(house: House) -> None:
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    headers = {"X-Request-Id": "req-7", "traceparent": trace}
    response = house.call("POST", "/api/generate", json={"prompt": "a", "webhook": URL}, headers=headers)
    house.run(response.json["id"])
    assert _take(house)[0].headers == {"X-Request-Id": "req-7", "traceparent": trace}


def test_the_same_job_with_another_webhook_is_another_payload(house: House) -> None:
    for body, status in (({"webhook": URL}, 201), ({"webhook": URL}, 200), ({}, 409)):
        assert house.call("PUT", "/api/jobs/a", json={"prompt": "a", **body}).status_code == status


# --- batches


def _end_all(house: House, batch: dict) -> None:
    for job in house.call("GET", f"/api/batches/{batch['id']}").json["jobs"]:
        house.run(job["id"])


def _submit(house: House, **body) -> dict:
    response = house.call("POST", "/api/generate_batch", json=body)
    assert response.status_code == 202, response.text
    return dict(response.json)


def test_a_batch_is_told_once_all_of_it_has_ended(house: House) -> None:
    batch = _submit(house, prompts=["a", "b"], webhook=URL)
    _end_all(house, batch)
    (errand,) = _take(house)
    assert (errand.delivery.type, errand.delivery.batch_id, errand.delivery.job_id) == (
        "batch.completed",
        batch["id"],
        None,
    )
    data = json.loads(render(errand.message))["data"]
    assert (data["id"], data["status"], data["counts"]["succeeded"]) == (batch["id"], "completed", 2)
    assert not {"jobs", "inputs", "outputs", "history"} & set(data)


def test_a_batchs_webhook_may_be_told_of_its_jobs_too(house: House) -> None:
    own = "https://own.example.com/"
    batch = _submit(
        house,
        requests=[{"prompt": "a"}, {"prompt": "b", "webhook": own}],
        webhook=URL,
        webhook_events_filter=["job.started", "batch.completed"],
    )
    _end_all(house, batch)
    told = sorted((errand.delivery.url, errand.delivery.type) for errand in _take(house))
    assert told == [(URL, "batch.completed"), (URL, "job.started"), (own, "job.succeeded")]


def test_endpoints_hear_of_batches_too(house: House) -> None:
    _make(house, events=["batch.completed"])
    _end_all(house, _submit(house, prompts=["a"]))
    assert [errand.delivery.type for errand in _take(house)] == ["batch.completed"]


def test_a_batch_that_is_retried_and_completes_again_is_told_again(house: House) -> None:
    batch = _submit(house, prompts=["a"], webhook=URL)
    (job,) = house.call("GET", f"/api/batches/{batch['id']}").json["jobs"]
    house.store.cancel(JobRef("shop", job["id"]))
    (first,) = _take(house)
    assert house.call("POST", f"/api/jobs/{job['id']}/retry").status_code == 202
    house.run(job["id"])
    (second,) = _take(house)
    assert first.message.id != second.message.id


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompts": ["a"], "webhook": "https://10.0.0.1/"}, "webhook"),
        ({"prompts": ["a"], "webhook": URL, "webhook_events_filter": ["batch.done"]}, "webhook_events_filter.0"),
        ({"requests": [{"prompt": "a"}, {"prompt": "a", "webhook": "http://x.y"}]}, "requests.1.webhook"),
        (
            {"requests": [{"prompt": "a", "webhook": URL, "webhook_events_filter": ["batch.completed"]}]},
            "requests.0.webhook_events_filter.0",
        ),
    ],
)
def test_a_wrong_webhook_of_a_batch_is_named(house: House, body: dict, param: str) -> None:
    before = house.written()
    response = house.call("POST", "/api/generate_batch", json=body)
    assert (response.status_code, error_of(response)["param"]) == (422, param)
    assert house.written() == before


def test_the_operators_allow_list_lets_private_receivers_through() -> None:
    house = build(webhook_allowlist="127.0.0.0/8,hooks.corp")
    for url in ("http://127.0.0.1:9000/", "http://hooks.corp/", "https://example.com/"):
        house.submit(webhook=url)
    for url in ("http://10.0.0.1/", "https://[::1]/"):
        assert house.call("POST", "/api/generate", json={"prompt": "a", "webhook": url}).status_code == 422
    schema = house.call("GET", "/openapi.json").json["components"]["schemas"]["WebhookRequest"]["properties"]["url"]
    assert "pattern" not in schema
