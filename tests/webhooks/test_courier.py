"""Real couriers, a real Redis, receivers on loopback that behave and misbehave. Whatever they do, the job is untouched, and the
log says what happened."""

from __future__ import annotations

import json
import signal
import statistics
import sys
import time

import pytest

from shared.errors import ConfigurationError
from shared.job import JobStatus
from shared.settings import load_settings
from shared.store.connection import connect, key_prefix
from shared.store.redis import RedisStore
from shared.webhooks import DeliveryStatus, NewEndpoint, RedisWebhookStore
from tests.servers import Process, RedisServer, free_port, until
from tests.webhooks.conftest import ENDS, Post
from tests.webhooks.receiver import (
    Receiver,
    answers,
    closes,
    drips,
    drips_after_its_status,
    gushes,
    gushes_headers,
    hangs,
    talks_nonsense,
)

DELIVERED, FAILED, PENDING = DeliveryStatus.DELIVERED, DeliveryStatus.FAILED, DeliveryStatus.PENDING


def settled(post: Post, count: int = 1, endpoint: str = "default"):
    """The log, once so many deliveries have ended."""
    until(
        lambda: sum(row.status is not PENDING for row in post.log(endpoint)) >= count, 15, what="deliveries that ended"
    )
    return post.log(endpoint)


def test_a_finished_job_is_told_signed_and_at_once(run_courier, real: Post, receiver: Receiver) -> None:
    run_courier()
    secret = real.hooks.get("shop", "default").secret
    delays = []
    for number in range(10):
        ref = real.job(
            receiver.url + "?x=1",
            output=f"wörld {number}",
            request_id="req_1",
            traceparent=f"00-{'a' * 32}-{'b' * 16}-01",
        )
        finished = time.time()
        request = receiver.wait_for(number + 1)[-1]
        delays.append(request.at - finished)
        told = request.verify(secret)
        assert (told["type"], told["data"]["id"], told["data"]["output"]) == (
            "job.succeeded",
            ref.id,
            f"wörld {number}",
        )
        until(lambda ref=ref: real.status(ref) == "delivered")
    assert statistics.median(delays) < 1  # the benchmark says how much less
    headers = request.headers
    assert request.path == "/hook?x=1"
    assert headers["host"] == f"127.0.0.1:{receiver.port}"
    assert headers["content-type"] == "application/json"
    assert headers["user-agent"].startswith("SmartTextGen")
    assert (headers["x-request-id"], headers["traceparent"][:4]) == ("req_1", "00-a")
    assert len({request.id for request in receiver.received}) == 10
    assert len(receiver.received) == 10


def test_an_endpoint_and_its_rotation(run_courier, real: Post, receiver: Receiver) -> None:
    run_courier()
    endpoint = real.hooks.create("shop", NewEndpoint(receiver.url, ENDS))
    real.job(None)
    receiver.wait_for(1)[0].verify(endpoint.secret)
    new = real.hooks.rotate("shop", endpoint.id).secret
    real.job(None)
    request = receiver.wait_for(2)[1]
    assert request.verify(new) == request.verify(endpoint.secret)
    assert len(request.headers["webhook-signature"].split()) == 2
    assert [row.status for row in settled(real, 2, endpoint.id)] == [DELIVERED, DELIVERED]


def test_it_is_tried_again_with_the_same_id_and_body(run_courier, real: Post, receiver: Receiver) -> None:
    receiver.behaves(answers(500), closes, answers(200))
    run_courier()
    ref = real.job(receiver.url)
    (row,) = settled(real)
    assert (row.status, row.attempts, row.response_status, row.error) == (DELIVERED, 3, 200, None)
    requests = receiver.received
    assert len({(request.id, request.body) for request in requests}) == 1
    secret = real.hooks.get("shop", "default").secret
    assert all(request.verify(secret)["data"]["id"] == ref.id for request in requests)


@pytest.mark.parametrize(
    ("behaviour", "status", "error"),
    [
        (answers(500), 500, "Answered 500."),
        (answers(404), 404, "Answered 404."),
        (answers(302, Location="http://127.0.0.1:1/"), 302, "Answered 302; redirects are not followed."),
        (answers(307, Location="/elsewhere"), 307, "Answered 307; redirects are not followed."),
        (hangs, None, "No answer within 0.4 s."),
        (drips, None, "No answer within 0.4 s."),
        (closes, None, "The connection ended without an HTTP answer."),
        (talks_nonsense, None, "The connection ended without an HTTP answer."),
        (gushes_headers, None, "The connection ended without an HTTP answer."),
    ],
    ids=["500", "404", "302", "307", "hangs", "drips", "closes", "talks_nonsense", "gushes_headers"],
)
def test_a_receiver_that_fails(run_courier, real: Post, receiver: Receiver, behaviour, status, error) -> None:
    receiver.behaves(behaviour)
    run_courier(webhook_timeout_s="0.4", webhook_retry_s="0.05")
    ref = real.job(receiver.url)
    (row,) = settled(real)
    assert (row.status, row.attempts, row.response_status, row.error) == (FAILED, 2, status, error)
    assert {request.path for request in receiver.received} == {"/hook"}
    job = real.jobs.get(ref)
    assert (job.status, job.output, job.webhook_status) == (JobStatus.SUCCEEDED, "world", "failed")


def test_nobody_listens(run_courier, real: Post) -> None:
    run_courier(webhook_retry_s="0.05")
    real.job(f"http://127.0.0.1:{free_port()}/")
    (row,) = settled(real)
    assert (row.status, row.attempts, row.error) == (FAILED, 2, "The connection was refused.")


def test_a_gigabyte_is_not_read(run_courier, real: Post, receiver: Receiver) -> None:
    receiver.behaves(gushes)
    run_courier()
    real.job(receiver.url)
    assert settled(real)[0].status is DELIVERED
    assert receiver.gushed < 64 * 1024 * 1024  # what kernels hold of it


def test_a_body_that_drips_is_left_at_the_limit(run_courier, real: Post, receiver: Receiver) -> None:
    receiver.behaves(drips_after_its_status)
    run_courier(webhook_timeout_s="0.4")
    real.job(receiver.url)
    row = settled(real)[0]
    assert (row.status, row.error) == (FAILED, "No answer within 0.4 s.")


def test_410_disables_the_endpoint(run_courier, real: Post, receiver: Receiver) -> None:
    receiver.behaves(answers(410))
    run_courier()
    endpoint = real.hooks.create("shop", NewEndpoint(receiver.url, ENDS))
    real.job(None)
    (row,) = settled(real, 1, endpoint.id)
    assert (row.status, row.attempts, row.response_status) == (FAILED, 1, 410)
    assert real.hooks.get("shop", endpoint.id).disabled_reason == "gone"
    real.job(None)
    time.sleep(0.2)
    assert len(receiver.received) == 1


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_retry_after_is_honoured(run_courier, real: Post, receiver: Receiver, status: int) -> None:
    receiver.behaves(answers(status, Retry_After="1"), answers(200))
    run_courier(webhook_retry_s="0.01")
    real.job(receiver.url)
    first, second = receiver.wait_for(2)
    assert second.at - first.at >= 0.9


def test_a_slow_receiver_delays_nobody_else(run_courier, real: Post, receiver: Receiver) -> None:
    run_courier(webhook_concurrency="16", webhook_per_receiver="8", webhook_timeout_s="30")
    with Receiver() as slow:
        slow.behaves(hangs)
        for _ in range(40):
            real.job(slow.url)
        slow.wait_for(8)
        began = time.time()
        for number in range(20):
            real.job(receiver.url)
            receiver.wait_for(number + 1)
        assert time.time() - began < 20
        assert len(slow.received) == 8


def test_the_courier_is_killed_between_sending_and_recording(
    start_courier, run_courier, real: Post, receiver: Receiver
) -> None:
    receiver.behaves(hangs, answers(200))
    first = start_courier(WEBHOOK_TIMEOUT_S="1")
    real.job(receiver.url)
    receiver.wait_for(1)
    first.process.send_signal(signal.SIGKILL)
    first.wait(5)
    run_courier(webhook_timeout_s=1)
    (row,) = settled(real)
    assert (row.status, row.attempts) == (DELIVERED, 2)
    one, two = receiver.received
    assert (one.id, one.body) == (two.id, two.body)


def test_two_couriers_send_each_once(run_courier, real: Post, receiver: Receiver) -> None:
    run_courier()
    run_courier()
    refs = [real.job(receiver.url) for _ in range(60)]
    rows = settled(real, 60)
    assert len(rows) == len(receiver.received) == 60
    assert {
        request.verify(real.hooks.get("shop", "default").secret)["data"]["id"] for request in receiver.received
    } == {ref.id for ref in refs}


def test_sigterm_hands_back_what_is_under_way(start_courier, run_courier, real: Post, receiver: Receiver) -> None:
    receiver.behaves(hangs, answers(200))
    courier = start_courier(WEBHOOK_TIMEOUT_S="30")
    real.job(receiver.url)
    receiver.wait_for(1)
    asked = time.monotonic()
    courier.process.send_signal(signal.SIGTERM)
    assert courier.wait(10) == 0, courier.output()
    assert time.monotonic() - asked < 8
    assert real.jobs.fleet().couriers == 0
    run_courier()
    (row,) = settled(real)
    assert (row.status, row.attempts) == (DELIVERED, 1)


def test_what_is_posted_without_a_courier_waits_for_one(run_courier, real: Post, receiver: Receiver) -> None:
    ref = real.job(receiver.url)
    assert real.status(ref) == "pending"
    run_courier()
    settled(real)
    assert real.status(ref) == "delivered"


def test_an_address_that_is_not_allowed_is_refused_at_delivery(run_courier, real: Post, receiver: Receiver) -> None:
    """As where a name moved since the submit, or the allow-list shrank."""
    run_courier(webhook_allowlist="10.0.0.0/8", webhook_retry_s="0.05")
    real.job(f"http://127.0.0.1:{receiver.port}/")
    real.job(f"http://localhost:{receiver.port}/")
    rows = settled(real, 2)
    assert {row.error for row in rows} == {
        "Not called: The url should be https.",
        "Not called: The host's address is not one of the public internet.",
    }
    assert receiver.received == []


def test_redis_is_away_for_a_while(redis_binary: str, tmp_path, receiver: Receiver) -> None:
    """A courier started before its Redis waits; one whose Redis goes away reports when it is back."""
    server = RedisServer(redis_binary, tmp_path)
    settings = load_settings(redis_url=server.url)
    courier = Process(
        [sys.executable, "-m", "worker.courier"],
        tmp_path / "courier.log",
        {"REDIS_URL": server.url, "WEBHOOK_ALLOWLIST": "127.0.0.0/8", "WEBHOOK_TIMEOUT_S": "4"},
    )
    try:
        time.sleep(1.5)
        with server:
            client = connect(settings)
            jobs = RedisStore(client, key_prefix(settings))
            post = Post(jobs, RedisWebhookStore(client, key_prefix(settings)))
            until(lambda: jobs.fleet().couriers == 1, 20, what="a courier")
            receiver.behaves(lambda handler: (time.sleep(1), answers(200)(handler)))
            post.job(receiver.url)
            receiver.wait_for(1)
            server.stop()
            time.sleep(2)
            server.start()
            (row,) = settled(post)
            assert (row.status, row.attempts) == (DELIVERED, 1)
            receiver.behaves(answers(200))
            post.job(receiver.url)
            settled(post, 2)
            assert len(receiver.received) == 2
            courier.process.send_signal(signal.SIGTERM)
            assert courier.wait(10) == 0
    finally:
        courier.kill()


def test_a_wrong_setting_is_said(tmp_path) -> None:
    process = Process([sys.executable, "-m", "worker.courier"], tmp_path / "log", {"WEBHOOK_ALLOWLIST": "127.1"})
    assert process.wait(30) == 78
    assert "WEBHOOK_ALLOWLIST" in process.output()
    assert "Traceback" not in process.output()


@pytest.mark.parametrize(
    "wrong", [{"webhook_allowlist": "10.0.0.0/33"}, {"webhook_retry_s": "soon"}, {"webhook_timeout_s": 0}], ids=str
)
def test_every_wrong_setting_is_named(wrong: dict) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong)).upper()):
        load_settings(**wrong)


def test_a_fleet_without_workers_still_expires_jobs(start_courier, real: Post) -> None:
    start_courier()
    ref = real.drive.ref(queue_timeout_s=1)
    until(lambda: real.jobs.get(ref).status is JobStatus.EXPIRED, 10)


def test_what_was_sent_is_in_the_log_of_the_process(start_courier, real: Post, receiver: Receiver) -> None:
    courier = start_courier(LOG_FORMAT="json")
    real.job(receiver.url + "?token=secret", request_id="req_7")
    settled(real)
    until(lambda: '"verdict"' in courier.output())
    line = next(json.loads(line) for line in courier.output().splitlines() if '"verdict"' in line)
    assert (line["verdict"], line["status"], line["attempt"], line["request_id"]) == ("delivered", 200, 1, "req_7")
    assert "token=secret" not in courier.output()
    assert "world" not in courier.output()
