"""What metrics are told. Over both stores."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from shared.job import Choice, JobStatus, Outcome, Priority, Usage
from shared.store.protocol import JobStore, Patience
from shared.store.retention import Retention
from tests.servers import until
from tests.store.conftest import Driver, worker

LEASE_S = 0.3


@pytest.fixture
def retention() -> Retention:
    return Retention(worker_lease_s=LEASE_S)


def lose_worker(drive: Driver, **patience: int) -> None:
    """Passes, often enough to be no outage, until its lease has run out."""

    def lost() -> bool:
        drive.store.reconcile(Patience(pause_s=0, **patience))
        return drive.store.figures().events["leases_expired"] == 1

    until(lost, 20, what="a lease that ran out")


def test_of_an_empty_store(store: JobStore):
    figures = store.figures()
    assert figures.ended == {"succeeded": 0, "failed": 0, "canceled": 0, "expired": 0}
    assert figures.events == {"requeued": 0, "resent": 0, "leases_expired": 0}
    assert (figures.queues, figures.workers, figures.tenants, figures.dead_letters) == ({}, {}, {}, 0)


def test_ends_are_counted_by_status(drive: Driver):
    drive.finished()
    drive.store.cancel(drive.ref())
    assert drive.store.figures().ended == {"succeeded": 1, "failed": 0, "canceled": 1, "expired": 0}


def test_what_waits_is_in_the_lines_by_priority_or_in_the_window(drive: Driver):
    drive.store.beat(worker("w1", slots=1), ())  # a window of one and a headroom of four
    for _ in range(6):
        drive.submit()
    drive.submit(priority=Priority.LOW)
    queue = drive.store.figures().queues["demo"]
    assert (queue.window, queue.lines, queue.waiting) == (5, {"high": 0, "normal": 1, "low": 1}, 7)
    assert (queue.running, queue.slots, queue.paused) == (0, 1, False)


def test_the_oldest_waits_in_any_tenants_line_or_in_the_window(drive: Driver):
    assert drive.store.figures().queues == {}
    old = drive.ref(tenant="rival")
    time.sleep(0.06)
    drive.submit()
    before = drive.store.figures().queues["demo"].oldest_s
    assert before >= 0.05
    drive.store.cancel(old)
    assert drive.store.figures().queues["demo"].oldest_s < before


def test_nobody_waits(drive: Driver):
    drive.finished()
    assert drive.store.figures().queues["demo"].oldest_s == 0


def test_a_retried_job_waits_since_its_retry(drive: Driver):
    ref = drive.ref()
    drive.store.cancel(ref)
    time.sleep(0.5)
    drive.store.retry(ref)
    assert drive.store.figures().queues["demo"].oldest_s < 0.5


def test_workers_are_counted_by_model_and_state(drive: Driver):
    for name, state in (("w1", "ready"), ("w2", "ready"), ("w3", "draining")):
        drive.store.beat(replace(worker(name), state=state), ())
    assert drive.store.figures().workers == {("demo", "ready"): 2, ("demo", "draining"): 1}


def test_a_lost_worker_leaves_its_marks(drive: Driver):
    drive.running()
    lose_worker(drive, most_crashes=1)
    figures = drive.store.figures()
    assert (figures.dead_letters, figures.events["leases_expired"], figures.ended["failed"]) == (1, 1, 1)
    drive.store.delete(drive.store.dead_letters(None, 1).data[0].job.ref)
    assert drive.store.figures().dead_letters == 0


def test_a_job_that_lost_its_worker_is_requeued(drive: Driver):
    drive.running()
    lose_worker(drive)
    assert drive.store.figures().events["requeued"] == 1


def test_eta_errors_have_all_their_bounds_and_add_up(drive: Driver):
    drive.running()
    errors = drive.store.figures().queues["demo"].eta_errors
    assert [bound for bound, _ in errors.within] == [0.5, 1, 2, 5, 10, 30, 60, 300]
    assert [count for _, count in errors.within] == [1] * 8
    assert errors.count == 1
    assert errors.sum_s < 0.5


def test_tenants_are_told_apart_only_where_they_are_named(drive: Driver):
    ref = drive.running()
    outcome = Outcome(JobStatus.SUCCEEDED, (Choice(0, "x", "stop"),), Usage(3, 2))
    drive.finish(ref, "w1", 1, outcome)
    drive.store.pause("demo")
    drive.submit("a", "b")
    figures = drive.store.figures(["shop", "nobody"])
    assert figures.tenants["shop"].used == {"jobs": 1, "prompt_tokens": 3, "completion_tokens": 2, "cached_tokens": 0}
    assert figures.tenants["shop"].waiting == 2
    assert (figures.tenants["nobody"].waiting, figures.tenants["nobody"].used["jobs"]) == (0, 0)


class TestWebhooks:
    def test_nobody_waits_for_a_courier(self, drive: Driver):
        webhooks = drive.store.figures().webhooks
        assert (webhooks.outbox, webhooks.due, webhooks.couriers) == (0, 0, 0)
        assert webhooks.oldest_s < 0.05

    def test_a_message_that_no_courier_takes_up(self, drive: Driver):
        ref = drive.ref(webhook="https://example.com/", webhook_events_filter=("job.canceled",))
        drive.store.cancel(ref)
        time.sleep(0.1)
        webhooks = drive.store.figures().webhooks
        assert webhooks.outbox == 1
        assert webhooks.oldest_s >= 0.09
