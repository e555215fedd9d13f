"""What operators see and do: dead letters, usage, who runs how much. Over both stores."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from shared.errors import InvalidCursorError, NotFoundError
from shared.job import JobRef, JobStatus, Usage
from shared.store.protocol import Patience
from shared.store.retention import Retention
from tests.store.conftest import ACCEPTED, Driver, success, worker

LEASE_S = 0.3


@pytest.fixture
def retention() -> Retention:
    return Retention(worker_lease_s=LEASE_S)


def convict(drive: Driver, *refs: JobRef) -> None:
    """Their worker dies while it runs them, and once is enough."""
    drive.store.beat(worker("w1"), ())
    for ref in refs:
        assert drive.store.claim(ref, "w1", f"{ref}") is not None
    for _ in range(40):  # often enough to be no outage, but on a busy machine one looks like it
        time.sleep(LEASE_S / 4)
        drive.store.reconcile(Patience(most_crashes=1, pause_s=0))
        if all(drive.store.get(ref).status is JobStatus.FAILED for ref in refs):
            return
    raise AssertionError("not convicted")


class TestDrain:
    def test_a_worker_hears_of_it_with_its_beat_until_it_departs(self, drive: Driver):
        assert drive.store.beat(worker("w1"), ()).drain is False
        drive.store.drain_worker("w1")
        drive.store.drain_worker("w1")
        assert drive.store.beat(worker("w1"), ()).drain is True
        assert drive.store.beat(worker("w2"), ()).drain is False
        drive.store.depart("w1")
        assert drive.store.beat(worker("w1"), ()).drain is False

    def test_one_that_is_not_there(self, drive: Driver):
        with pytest.raises(NotFoundError):
            drive.store.drain_worker("w1")


class TestDeadLetters:
    def test_convicted_jobs_are_listed_newest_first(self, drive: Driver):
        refs = [drive.ref(), drive.ref(tenant="rival"), drive.ref()]
        for ref in refs:
            convict(drive, ref)
        page = drive.store.dead_letters(None, 2)
        rest = drive.store.dead_letters(page.next_cursor, 2)
        assert [letter.job.ref for letter in (*page.data, *rest.data)] == refs[::-1]
        assert rest.next_cursor is None
        assert page.data[0].job.error.code == "worker_crashed"

    def test_one_is_requeued_and_its_crashes_are_forgotten(self, drive: Driver):
        ref = drive.ref()
        convict(drive, ref)
        drive.store.beat(worker("w2"), ())
        job, hints = drive.store.requeue(ref)
        assert job.status is JobStatus.QUEUED
        assert [hint.ref for hint in hints] == [ref]
        assert drive.store.dead_letters(None, 10).data == ()
        claim = drive.claim(ref, "w2")
        assert claim.job.attempt == 2
        assert drive.finish(ref, "w2", 2, success()) == ACCEPTED

    def test_what_is_no_dead_letter_is_not_requeued(self, drive: Driver):
        canceled = drive.ref()
        drive.store.cancel(canceled)
        for ref in (canceled, drive.ref(), JobRef("shop", "nope")):
            with pytest.raises(NotFoundError):
                drive.store.requeue(ref)

    def test_those_that_are_deleted_or_expired_are_gone(self, drive: Driver):
        kept, deleted, expired = drive.ref(), drive.ref(), drive.ref(result_ttl_s=1)
        convict(drive, kept, deleted, expired)
        drive.store.delete(deleted)
        time.sleep(1.1)
        page = drive.store.dead_letters(None, 1)
        assert ([letter.job.ref for letter in page.data], page.next_cursor) == ([kept], None)

    def test_a_wrong_cursor(self, drive: Driver):
        with pytest.raises(InvalidCursorError):
            drive.store.dead_letters("?", 10)


class TestUsage:
    def test_it_is_counted_by_day_key_and_model(self, drive: Driver):
        today = datetime.now(UTC).date()
        for more in ({"key_id": "key_1"}, {"key_id": "key_1"}, {"key_id": "key_2"}, {"tenant": "rival"}):
            ref = drive.running(**more)
            drive.finish(ref, "w1", 1, success())
        rows = drive.store.usage("shop", today - timedelta(days=1), today)
        assert [(r.key_id, r.model, r.jobs, r.prompt_tokens, r.completion_tokens) for r in rows] == [
            ("key_1", "demo", 2, 6, 4),
            ("key_2", "demo", 1, 3, 2),
        ]
        assert {row.day for row in rows} <= {today, today - timedelta(days=1)}
        assert drive.store.usage("shop", today - timedelta(days=9), today - timedelta(days=2)) == ()

    def test_an_end_that_is_told_twice_counts_once(self, drive: Driver):
        today = datetime.now(UTC).date()
        ref = drive.running()
        for _ in range(2):
            assert drive.finish(ref, "w1", 1, success()) == ACCEPTED
        (row,) = drive.store.usage("shop", today, today)
        assert (row.jobs, Usage(row.prompt_tokens, row.completion_tokens)) == (1, Usage(3, 2))


def test_the_tokens_of_the_day_that_are_left(drive: Driver):
    assert drive.submit().tokens is None
    ref = drive.running()
    drive.finish(ref, "w1", 1, success())
    left = drive.submit(tokens_per_day=20).tokens
    assert (left.limit, left.remaining) == (20, 15)
    assert 0 < left.reset_s <= 86_400


def test_the_fleet_says_how_many_jobs_a_worker_runs(drive: Driver):
    drive.running("w1")
    drive.running("w1")
    drive.store.beat(worker("w2"), ())
    assert drive.store.fleet().jobs == {"w1": 2, "w2": 0}
