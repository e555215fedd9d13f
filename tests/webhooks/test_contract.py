"""Outbox, endpoints and deliveries: what every implementation promises."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from shared.errors import (
    EndpointDisabledError,
    EndpointFixedError,
    GoneError,
    InvalidCursorError,
    NotFoundError,
    WebhookLimitError,
)
from shared.job import JobError, JobRef, JobStatus, Outcome, Usage
from shared.store.events import Said, Told
from shared.store.protocol import Patience
from shared.webhooks import DeliveryStatus, Verdict
from tests.store.conftest import success
from tests.webhooks.conftest import ENDS, LIMITS, URL, Post

PENDING, DELIVERED, FAILED = DeliveryStatus.PENDING, DeliveryStatus.DELIVERED, DeliveryStatus.FAILED


def test_the_end_of_a_job_is_told_once_to_everybody_who_wants_it(post: Post) -> None:
    first, second = (
        post.endpoint(url="https://a.example.com/"),
        post.endpoint("job.succeeded", url="https://b.example.com/"),
    )
    post.endpoint("job.failed")
    ref = post.job()
    assert post.status(ref) == "pending"
    errands = post.take()
    assert {errand.delivery.endpoint_id for errand in errands} == {first, second, "default"}
    assert {errand.delivery.url for errand in errands} == {"https://a.example.com/", "https://b.example.com/", URL}
    assert len({errand.message.id for errand in errands}) == 1
    assert len({errand.delivery.id for errand in errands}) == 3
    assert post.take() == ()
    for errand, status in zip(errands, ("pending", "pending", "delivered"), strict=True):
        assert post.say(errand, response_status=204)
        assert post.status(ref) == status
    assert post.take() == ()
    (row,) = post.log()
    assert (row.status, row.attempts, row.response_status, row.error) == (DELIVERED, 1, 204, None)
    assert (row.type, row.job_id, row.next_attempt_at) == ("job.succeeded", ref.id, None)
    assert row.delivered_at is not None


def test_nobody_wants_it(post: Post) -> None:
    post.endpoint("job.failed")
    post.endpoint(tenant="rival")
    ref = post.job(None)
    assert (post.status(ref), post.take()) == (None, ())
    assert not [key for key in post.kept() if "outbox" in key or "message" in key]


def test_the_body_is_the_job_as_it_was(post: Post) -> None:
    ref = post.job(prompt="Hé", user_id="u1", events=("job.started", *ENDS), metadata={"a": "b"})
    started, ended = post.take()
    seen = {errand.delivery.type: post.body(errand) for errand in (started, ended)}
    assert set(seen) == {"job.started", "job.succeeded"}
    data = seen["job.succeeded"]["data"]
    assert (data["id"], data["status"], data["input"], data["output"]) == (ref.id, "succeeded", "Hé", "world")
    assert data["history"] == [{"input": "Hé", "output": "world"}]
    assert data["metadata"] == {"a": "b"}
    assert data["urls"]["self"] == f"/api/jobs/{ref.id}"
    assert seen["job.succeeded"]["timestamp"] == data["finished_at"]
    assert seen["job.started"]["data"]["status"] == "running"
    assert seen["job.started"]["data"]["output"] is None


def test_every_attempt_sends_the_same(post: Post) -> None:
    post.job()
    (errand,) = post.take()
    assert post.hooks.keep(errand, "first") == "first"
    assert post.hooks.keep(errand, "second") == "first"
    post.say(errand, Verdict.AGAIN, error="No.")
    assert post.take()[0].message.payload == "first"


def _ends(post: Post) -> dict[str, JobRef]:
    failed = Outcome(JobStatus.FAILED, (), Usage(), JobError("generation_failed", "It broke.", retryable=True))
    hook = {"webhook": URL, "webhook_events_filter": ENDS}
    refs = {"succeeded": post.job(), "failed": post.drive.running(**hook), "canceled": post.drive.ref(**hook)}
    post.drive.finish(refs["failed"], "w1", 1, failed)
    post.jobs.cancel(refs["canceled"])
    refs["expired"] = post.drive.ref(**hook, queue_timeout_s=1)
    client = post.jobs._client
    client.zadd(f"{post.jobs._prefix}deadlines", {f"queue|{refs['expired']}": 1})
    post.jobs.reconcile(Patience(pause_s=0))
    return refs


def test_every_end_is_told(post: Post) -> None:
    refs = _ends(post)
    told = {errand.delivery.type.removeprefix("job."): errand.delivery.job_id for errand in post.take()}
    assert told == {status: ref.id for status, ref in refs.items()}
    assert {status: post.jobs.get(ref).status.value for status, ref in refs.items()} == {name: name for name in refs}


def test_an_end_that_is_said_again_is_told_once(post: Post) -> None:
    ref = post.job()
    post.drive.finish(ref, "w1", 1, success())
    post.jobs.cancel(post.drive.ref())
    assert len(post.take()) == 1


def test_a_filter_is_obeyed(post: Post) -> None:
    ref = post.job(events=("job.failed", "job.started"))
    assert [errand.delivery.type for errand in post.take()] == ["job.started"]
    assert post.status(ref) is None


def test_each_life_of_a_job_is_told(post: Post) -> None:
    ref = post.drive.ref(webhook=URL, webhook_events_filter=ENDS)
    post.jobs.cancel(ref)
    (first,) = post.take()
    post.jobs.retry(ref)
    assert post.status(ref) is None
    post.say(first)
    assert post.status(ref) is None, "the former end's delivery says nothing of this life"
    post.jobs.cancel(ref)
    (second,) = post.take()
    assert first.message.id != second.message.id
    assert post.body(first)["data"]["status"] == "canceled"
    assert post.status(ref) == "pending"


def test_deleting_a_job_takes_what_its_messages_hold_along(post: Post) -> None:
    waits, posted, unsent = post.job("https://a.example.com/"), post.job("https://b.example.com/"), post.job()
    errand = next(each for each in post.take() if each.delivery.job_id == waits.id)
    post.body(errand)
    post.say(errand, Verdict.AGAIN, retry_in_s=3600)
    for ref in (waits, unsent):
        post.jobs.delete(ref)
    kept = [key for key in post.kept() if ":message:" in key]
    assert len(kept) == 1, "that of the other job"
    assert post.take() == ()
    post.lapse()
    assert [each.delivery.job_id for each in post.take()] == [posted.id]
    rows = {row.job_id: row for row in post.log()}
    assert {rows[ref.id].status for ref in (waits, unsent)} == {FAILED}
    assert rows[waits.id].error == "What it tells of was deleted."
    with pytest.raises(GoneError):
        post.hooks.redeliver("shop", "default", rows[waits.id].id)


def test_a_message_that_is_deleted_while_it_is_rendered_is_not_sent(post: Post) -> None:
    ref = post.job()
    (errand,) = post.take()
    post.jobs.delete(ref)
    assert post.hooks.keep(errand, "text") is None


def test_a_courier_that_is_gone_and_one_that_is_late(post: Post) -> None:
    post.job()
    (first,) = post.take(courier="c1")
    assert post.take(courier="c2") == ()
    post.lapse()
    (second,) = post.take(courier="c2")
    assert (second.delivery.id, second.message.id, second.delivery.attempts) == (first.delivery.id, first.message.id, 2)
    assert not post.say(first, Verdict.FAILED)
    assert post.say(second)
    assert not post.say(second), "an answer that was lost, and is said again, changes nothing"
    assert [row.status for row in post.log()] == [DELIVERED]


def test_handing_back_uses_up_nothing(post: Post) -> None:
    post.job()
    (first,) = post.take(courier="c1")
    assert post.say(first, Verdict.BACK)
    (second,) = post.take(courier="c2")
    assert (second.step, second.delivery.attempts) == (1, 1)


def test_again_after_a_while_and_then_given_up(post: Post) -> None:
    ref = post.job()
    (first,) = post.take()
    post.say(first, Verdict.AGAIN, response_status=500, error="Answered 500.", retry_in_s=0.2)
    assert post.take() == ()
    (row,) = post.log()
    assert (row.status, row.attempts, row.response_status, row.error) == (PENDING, 1, 500, "Answered 500.")
    assert row.next_attempt_at is not None
    assert post.hooks.take("c1", 1, {}).next_in_s == pytest.approx(0.2, abs=0.19)
    time.sleep(0.2)
    (second,) = post.take()
    assert (second.step, second.message.id) == (2, first.message.id)
    post.say(second, Verdict.FAILED, error="No connection.")
    (row,) = post.log()
    assert (row.status, row.attempts, row.response_status, row.error) == (FAILED, 2, None, "No connection.")
    assert post.status(ref) == "failed"
    assert post.jobs.get(ref).status is JobStatus.SUCCEEDED


def test_room_is_shared_between_receivers(post: Post) -> None:
    for _ in range(12):
        post.job("https://slow.example.com/a?b")
    post.job("https://quick.example.com/")
    taken = post.take(room=10)
    assert [errand.lane for errand in taken].count("shop|slow.example.com") == LIMITS.in_lane
    assert [errand.lane for errand in taken].count("shop|quick.example.com") == 1
    assert post.hooks.take("c1", 10, {"shop|slow.example.com": 0}).errands == ()
    assert len(post.hooks.take("c1", 10, {"shop|slow.example.com": 2}).errands) == 2
    assert len(post.take(room=1)) == 1


def test_tenants_do_not_share_a_lane(post: Post) -> None:
    post.job()
    post.job(tenant="rival")
    assert {errand.lane for errand in post.take()} == {"shop|hooks.example.com", "rival|hooks.example.com"}


def test_redelivery(post: Post) -> None:
    ref = post.job()
    (first,) = post.take()
    text = post.body(first)
    post.say(first, Verdict.FAILED, error="No.")
    again = post.hooks.redeliver("shop", "default", first.delivery.id)
    assert (again.status, again.id, again.message_id) == (PENDING, first.delivery.id, first.message.id)
    assert post.status(ref) == "pending"
    (second,) = post.take()
    assert (second.step, second.delivery.attempts) == (1, 2)
    assert post.body(second) == text
    assert post.hooks.redeliver("shop", "default", first.delivery.id).status is PENDING, "is under way: left alone"
    assert post.take() == ()
    post.say(second)
    assert post.status(ref) == "delivered"
    for tenant, endpoint, delivery in (
        ("rival", "default", first.delivery.id),
        ("shop", "we_1", first.delivery.id),
        ("shop", "default", "dlv_1"),
    ):
        with pytest.raises(NotFoundError):
            post.hooks.redeliver(tenant, endpoint, delivery)


def test_redelivery_of_one_that_waits_is_now(post: Post) -> None:
    post.job()
    (first,) = post.take()
    post.say(first, Verdict.AGAIN, retry_in_s=3600)
    post.hooks.redeliver("shop", "default", first.delivery.id)
    assert len(post.take()) == 1


# --- endpoints


def test_an_endpoint_is_made_shown_changed_and_deleted(post: Post) -> None:
    made = post.hooks.get("shop", post.endpoint("job.failed"))
    assert (made.url, made.events, made.enabled, made.disabled_reason) == (URL, ("job.failed",), True, None)
    assert made.secret.startswith("whsec_")
    assert post.hooks.list_endpoints("shop") == (made,)
    assert post.hooks.list_endpoints("rival") == ()
    changed = post.hooks.update("shop", made.id, url="https://b.example.com", events=ENDS, description="é")
    assert changed == replace(made, url="https://b.example.com", events=ENDS, description="é")
    off = post.hooks.update("shop", made.id, enabled=False)
    assert (off.enabled, off.disabled_reason) == (False, "requested")
    post.job(None)
    assert post.take() == ()
    assert post.hooks.update("shop", made.id, enabled=True) == changed
    post.job(None)
    assert len(post.take()) == 1
    for call in (post.hooks.get, post.hooks.update, post.hooks.delete, post.hooks.rotate, post.hooks.trial):
        with pytest.raises(NotFoundError):
            call("rival", made.id)
    post.hooks.delete("shop", made.id)
    with pytest.raises(NotFoundError):
        post.hooks.delete("shop", made.id)
    post.job(None)
    assert post.take() == ()
    assert made.secret not in repr(made)


def test_how_many_want_an_event_is_counted_right(post: Post) -> None:
    one, two = post.endpoint("job.failed", "job.canceled"), post.endpoint("job.failed")
    post.hooks.update("shop", two, enabled=False)
    post.hooks.update("shop", two, enabled=False)
    post.hooks.update("shop", two, enabled=True)
    post.hooks.update("shop", one, events=("job.expired",))
    post.hooks.delete("shop", two)
    counts = post.jobs._client.hgetall(f"{post.jobs._prefix}hook_events:shop")
    assert {event: int(count) for event, count in counts.items() if count != "0"} == {"job.expired": 1}


def test_a_tenant_has_so_many_endpoints(post: Post) -> None:
    made = [post.endpoint() for _ in range(LIMITS.endpoints)]
    with pytest.raises(WebhookLimitError):
        post.endpoint()
    post.hooks.delete("shop", made[0])
    post.endpoint()


def test_the_built_in_endpoint(post: Post) -> None:
    first = post.hooks.get("shop", "default")
    assert (first.url, first.enabled, post.hooks.get("shop", "default")) == (None, True, first)
    assert post.hooks.get("rival", "default").secret != first.secret
    assert post.hooks.list_endpoints("shop") == ()
    for call in (post.hooks.update, post.hooks.delete, post.hooks.trial):
        with pytest.raises(EndpointFixedError):
            call("shop", "default")


def test_secrets_rotate(post: Post) -> None:
    endpoint = post.endpoint()
    old = post.hooks.get("shop", endpoint).secret
    new = post.hooks.rotate("shop", endpoint).secret
    assert old != new
    post.job(None)
    (errand,) = post.take()
    assert errand.secrets == (new, old)
    post.jobs._client.hset(f"{post.jobs._prefix}endpoint:shop:{endpoint}", "old_until", 1)
    post.job(None)
    assert post.take()[0].secrets == (new,)


def test_an_endpoint_that_is_disabled_or_deleted_meanwhile(post: Post) -> None:
    off, gone = post.endpoint(url="https://a.example.com"), post.endpoint(url="https://b.example.com")
    ref = post.job(None)
    for errand in post.take():
        post.say(errand, Verdict.AGAIN)
    post.hooks.update("shop", off, enabled=False)
    post.hooks.delete("shop", gone)
    assert post.take() == ()
    (row,) = post.log(off)
    assert (row.status, row.error) == (FAILED, "The endpoint is disabled.")
    assert post.status(ref) == "failed"
    with pytest.raises(EndpointDisabledError):
        post.hooks.redeliver("shop", off, row.id)
    with pytest.raises(EndpointDisabledError):
        post.hooks.trial("shop", off)
    with pytest.raises(NotFoundError):
        post.log(gone)
    post.hooks.update("shop", off, enabled=True)
    post.hooks.redeliver("shop", off, row.id)
    assert len(post.take()) == 1


def test_a_changed_address_holds_for_what_waits(post: Post) -> None:
    endpoint = post.endpoint()
    post.job(None)
    (errand,) = post.take()
    post.say(errand, Verdict.AGAIN)
    post.hooks.update("shop", endpoint, url="https://b.example.com")
    assert post.take()[0].delivery.url == "https://b.example.com"


def test_one_that_wants_no_more_is_disabled(post: Post) -> None:
    endpoint = post.endpoint()
    post.job()
    for errand in post.take():
        post.say(errand, Verdict.FAILED, response_status=410, disable="gone")
    found = post.hooks.get("shop", endpoint)
    assert (found.enabled, found.disabled_reason) == (False, "gone")
    assert post.hooks.get("shop", "default").enabled
    post.job(None)
    assert post.take() == ()


def test_one_that_fails_for_days_is_disabled(post: Post) -> None:
    endpoint = post.endpoint()
    key = f"{post.jobs._prefix}endpoint:shop:{endpoint}"

    def fail() -> None:
        post.job(None)
        post.say(post.take()[0], Verdict.FAILED)

    fail()
    assert post.hooks.get("shop", endpoint).enabled
    post.job(None)
    post.say(post.take()[0])
    assert not post.jobs._client.hexists(key, "failing_since"), "it works again"
    fail()
    post.jobs._client.hset(key, "failing_since", 1)
    fail()
    assert post.hooks.get("shop", endpoint).disabled_reason == "failing"


def test_a_test_event(post: Post) -> None:
    endpoint = post.endpoint("job.failed")
    row = post.hooks.trial("shop", endpoint)
    assert (row.type, row.status, row.job_id) == ("webhook.test", PENDING, None)
    (errand,) = post.take()
    assert errand.delivery.id == row.id
    assert post.body(errand)["type"] == "webhook.test"
    post.say(errand)
    assert post.log(endpoint)[0].status is DELIVERED


def test_the_log_is_paged_and_filtered(post: Post) -> None:
    for number in range(5):
        post.job(url=f"https://h{number}.example.com")
    for number, errand in enumerate(sorted(post.take(), key=lambda each: each.lane)):
        post.say(errand, Verdict.FAILED if number % 2 else Verdict.DELIVERED)
    page = post.hooks.deliveries("shop", "default", None, None, 2)
    assert [row.url[8:10] for row in page.data] == ["h4", "h3"]
    page = post.hooks.deliveries("shop", "default", None, page.next_cursor, 2)
    assert [row.url[8:10] for row in page.data] == ["h2", "h1"]
    page = post.hooks.deliveries("shop", "default", None, page.next_cursor, 2)
    assert ([row.url[8:10] for row in page.data], page.next_cursor) == (["h0"], None)
    failed = post.hooks.deliveries("shop", "default", FAILED, None, 10)
    assert [row.url[8:10] for row in failed.data] == ["h3", "h1"]
    assert post.hooks.deliveries("rival", "default", None, None, 10).data == ()
    with pytest.raises(InvalidCursorError):
        post.hooks.deliveries("shop", "default", None, "x", 10)


def test_what_is_over_leaves_the_log(post: Post) -> None:
    post.job()
    post.job()
    for errand in post.take():
        post.say(errand)
    client = post.jobs._client
    (newest, oldest) = post.log()
    for delivery in (newest, oldest):
        assert 0 < client.pttl(f"{post.jobs._prefix}delivery:shop:{delivery.id}") <= LIMITS.log_ttl_s * 1000
    assert 0 < client.pttl(f"{post.jobs._prefix}message:shop:{newest.message_id}") <= 86_400_000, (
        "no longer than the job"
    )
    client.delete(f"{post.jobs._prefix}delivery:shop:{oldest.id}")
    post.job()
    post.take()
    assert client.zcard(f"{post.jobs._prefix}deliveries:shop:default") == 2


def test_couriers_are_counted(post: Post) -> None:
    assert post.jobs.fleet().couriers == 0
    post.take(courier="c1")
    post.take(courier="c2")
    assert post.jobs.fleet().couriers == 2
    post.hooks.leave("c1")
    assert post.jobs.fleet().couriers == 1


# --- output while it runs


def _say(post: Post, ref: JobRef, since: int, *texts: str, attempt: int = 1) -> None:
    said = Said(ref, attempt, since, tuple(("0", text) for text in texts))
    assert [told.count for told in post.jobs.progress("w1", [said])] == [since + len(texts)]


def _told(post: Post) -> list[dict]:
    return [post.body(errand)["data"] for errand in post.take() if errand.delivery.type == "job.output"]


def test_output_is_told_while_it_grows_and_not_too_often(post: Post) -> None:
    hook = {"webhook": URL, "webhook_events_filter": ("job.output",)}
    ref = post.drive.running(**hook)
    said = Said(ref, 1, 0, (("0", "Hel"), ("0", "lo")))
    assert post.jobs.progress("w1", [said]) == [Told(2, watched=True)], "so that the worker tells more of it soon"
    _say(post, ref, 2, ", ")
    assert _told(post) == [{"id": ref.id, "status": "running", "attempt": 1, "output": "Hello"}]
    time.sleep(0.5)
    _say(post, ref, 3, "wörld")
    assert [data["output"] for data in _told(post)] == ["Hello, wörld"]
    time.sleep(0.5)
    post.jobs.release(ref, "w1", 1)
    assert post.drive.claim(ref) is not None
    _say(post, ref, 0, "Anew", attempt=2)
    assert [(data["attempt"], data["output"]) for data in _told(post)] == [(2, "Anew")]
    assert post.status(ref) is None


def test_endpoints_hear_of_output_and_of_nobody_elses(post: Post) -> None:
    post.endpoint("job.output")
    _say(post, post.drive.running(), 0, "a")
    _say(post, post.drive.running(tenant="rival"), 0, "b")
    assert [data["output"] for data in _told(post)] == ["a"]
