"""Leases and what the reconciler puts right: dead workers, lost hints, poison, deadlines. Over both stores."""

from __future__ import annotations

import threading
import time

import pytest

from shared.job import JobRef, JobStatus
from shared.store.protocol import Patience, Stop
from shared.store.retention import Retention
from tests.servers import until
from tests.store.conftest import ACCEPTED, FENCED, Driver, success, worker

LEASE_S = 0.4
NOW = Patience(grace_s=0.2, pause_s=0)


@pytest.fixture
def retention() -> Retention:
    return Retention(worker_lease_s=LEASE_S)


def beat(drive: Driver, name: str = "w1", slots: int = 4, running=()) -> dict:
    return drive.store.beat(worker(name, slots), running).stops


def let_die(drive: Driver) -> tuple[str, ...]:
    """Wait until leases that nobody renews are over; the reconciler looks on, as it does in life."""
    reaped: list[str] = []
    ends = time.monotonic() + LEASE_S + 0.1
    while time.monotonic() < ends:
        reaped += drive.store.reconcile(NOW).reaped
        time.sleep(0.05)
    return (*reaped, *drive.store.reconcile(NOW).reaped)


def start(drive: Driver, ref: JobRef, name: str = "w1"):
    beat(drive, name)
    return drive.store.claim(ref, name, f"{ref}{time.monotonic()}")


class TestLeases:
    def test_a_worker_without_a_lease_claims_nothing(self, drive: Driver):
        ref = drive.ref()
        assert drive.store.claim(ref, "w1", "t") is None
        assert drive.store.get(ref).status is JobStatus.QUEUED

    def test_a_dead_workers_jobs_wait_again_and_its_words_are_fenced(self, drive: Driver):
        ref = drive.ref()
        start(drive, ref)
        assert let_die(drive) == ("w1",)
        job = drive.store.get(ref)
        assert (job.status, job.owner, job.attempt, job.queue_position) == (JobStatus.QUEUED, None, 1, 1)
        assert drive.finish(ref, "w1", 1, success()) == FENCED
        claim = start(drive, ref, "w2")
        assert claim.job.attempt == 2
        assert drive.finish(ref, "w1", 1, success()) == FENCED
        assert drive.finish(ref, "w2", 2, success("second")) == ACCEPTED
        assert drive.store.get(ref).output == "second"

    def test_a_worker_that_beats_keeps_its_jobs(self, drive: Driver):
        ref = drive.ref()
        start(drive, ref)
        for _ in range(10):
            beat(drive, running=[(ref, 1)])
            assert drive.store.reconcile(NOW).reaped == ()
            time.sleep(LEASE_S / 5)
        assert drive.store.get(ref).status is JobStatus.RUNNING

    def test_a_zombie_learns_that_its_jobs_are_lost(self, drive: Driver):
        ref = drive.ref()
        start(drive, ref)
        let_die(drive)
        assert beat(drive, running=[(ref, 1)]) == {ref: Stop.LOST}

    def test_after_an_outage_nobody_is_reaped_for_a_lease(self, drive: Driver):
        ref = drive.ref()
        start(drive, ref)
        assert not drive.store.reconcile(NOW).held
        time.sleep(LEASE_S + 0.1)  # nobody looks: Redis was away, and no worker could beat
        done = drive.store.reconcile(NOW)
        assert done.reaped == ()
        assert done.held
        beat(drive, running=[(ref, 1)])
        assert drive.store.reconcile(NOW).reaped == ()
        assert drive.store.get(ref).status is JobStatus.RUNNING

    def test_a_clean_exit_hands_back_and_counts_no_crash(self, drive: Driver):
        ref = drive.ref()
        for _ in range(6):
            start(drive, ref)
            drive.store.depart("w1")
            assert drive.store.get(ref).status is JobStatus.QUEUED
        assert drive.store.fleet().workers == ()

    def test_a_canceled_job_of_a_dead_worker_is_canceled(self, drive: Driver):
        ref = drive.ref()
        start(drive, ref)
        drive.store.cancel(ref)
        let_die(drive)
        assert drive.store.get(ref).status is JobStatus.CANCELED

    @pytest.mark.parametrize("how", ["release", "depart"])
    def test_a_canceled_job_that_is_handed_back_is_canceled(self, drive: Driver, how: str):
        ref = drive.ref()
        start(drive, ref)
        drive.store.cancel(ref)
        drive.store.release(ref, "w1", 1) if how == "release" else drive.store.depart("w1")
        assert drive.store.get(ref).status is JobStatus.CANCELED

    def test_rare_passes_still_find_the_dead(self, drive: Driver):
        """A pass that comes late is not one after an outage, where others were heard meanwhile."""
        ref = drive.ref()
        start(drive, ref)
        for _ in range(12):
            beat(drive, "w2")
            if drive.store.reconcile(NOW).reaped:
                break
            for _ in range(4):
                time.sleep(LEASE_S * 0.15)
                beat(drive, "w2")
        assert drive.store.get(ref).status is JobStatus.QUEUED

    def test_after_each_of_two_outages_nobody_is_reaped_for_a_lease(self, drive: Driver):
        ref = drive.ref()
        start(drive, ref)
        drive.store.reconcile(NOW)
        for _ in range(2):
            time.sleep(LEASE_S + 0.1)
            beat(drive, "w2")  # another worker is heard first
            assert drive.store.reconcile(NOW).reaped == ()
            beat(drive, running=[(ref, 1)])
        assert drive.store.get(ref).status is JobStatus.RUNNING

    def test_the_words_for_a_deleted_job_are_not_taken_for_its_successors(self, drive: Driver):
        """Reaped and canceled, deleted, made again under its id, and claimed by the same worker, which was only slow."""
        first = drive.submission(chosen_id=True)
        ref = JobRef("shop", drive.store.submit(first).ids[0])
        start(drive, ref)
        drive.store.cancel(ref)
        let_die(drive)
        drive.store.delete(ref)
        drive.store.submit(first)
        start(drive, ref)
        assert drive.finish(ref, "w1", 1, success("the first one's")) == FENCED


class TestPoison:
    def test_a_job_that_kills_its_worker_is_convicted(self, drive: Driver):
        ref = drive.ref()
        for crash in range(1, 5):
            assert drive.store.get(ref).status is JobStatus.QUEUED
            assert start(drive, ref, f"w{crash}") is not None
            let_die(drive)
        job = drive.store.get(ref)
        assert (job.status, job.error.code, job.error.retryable) == (JobStatus.FAILED, "worker_crashed", False)

    def test_companions_of_a_poison_job_pass(self, drive: Driver):
        refs = [drive.ref() for _ in range(5)]
        poison, ended = refs[2], set()
        for crash in range(12):
            name = f"w{crash}"
            beat(drive, name, slots=8)
            drive.store.reconcile(NOW)
            aboard = [ref for ref in refs if ref not in ended and drive.store.claim(ref, name, f"{name}{ref}")]
            if poison in aboard:
                let_die(drive)
            else:
                for ref in aboard:
                    drive.finish(ref, name, drive.store.get(ref).attempt, success())
                drive.store.depart(name)
            ended = {ref for ref in refs if drive.store.get(ref).status.ended}
            if len(ended) == 5:
                break
        statuses = {ref: drive.store.get(ref).status for ref in refs}
        assert statuses.pop(poison) is JobStatus.FAILED
        assert set(statuses.values()) == {JobStatus.SUCCEEDED}

    def test_after_three_crashes_a_suspect_runs_alone_among_suspects(self, drive: Driver):
        one, two = drive.ref(), drive.ref()
        for crash in range(3):
            for ref in (one, two):
                start(drive, ref, f"w{crash}-{ref.id}")
            let_die(drive)
        beat(drive, "w9")
        assert drive.store.claim(one, "w9", "a") is not None
        assert drive.store.claim(two, "w9", "b") is None
        assert drive.store.get(two).status is JobStatus.QUEUED
        drive.finish(one, "w9", drive.store.get(one).attempt, success())
        assert drive.store.claim(two, "w9", "b") is not None


class TestHints:
    def test_a_lost_hint_is_sent_again_where_slots_are_free(self, drive: Driver):
        beat(drive)
        (hint,) = drive.submit("a").hints
        assert drive.store.reconcile(NOW).hints == ()
        time.sleep(0.25)
        beat(drive)
        (again,) = drive.store.reconcile(NOW).hints
        assert (again.ref, again.again) == (hint.ref, True)
        assert drive.store.reconcile(NOW).hints == ()

    def test_a_hint_that_was_overtaken_is_lost_also_where_no_slot_is_free(self, drive: Driver):
        beat(drive, slots=1)
        lost = drive.ref()
        time.sleep(0.3)
        beat(drive, slots=1)
        later = drive.ref()
        assert drive.store.claim(later, "w1", "t") is not None
        time.sleep(0.25)
        beat(drive, slots=1, running=[(later, 1)])
        assert [hint.ref for hint in drive.store.reconcile(NOW).hints] == [lost]

    def test_a_job_that_waits_its_turn_is_not_sent_again(self, drive: Driver):
        beat(drive, slots=1)
        first, _ = drive.submit("a", "b").ids
        assert drive.store.claim(JobRef("shop", first), "w1", "t") is not None
        time.sleep(0.3)
        beat(drive, slots=1, running=[(JobRef("shop", first), 1)])
        assert drive.store.reconcile(NOW).hints == ()


class TestDeadlines:
    def test_a_job_that_waits_too_long_expires(self, drive: Driver):
        ref = drive.ref(queue_timeout_s=1)
        other = drive.ref()
        time.sleep(1.05)
        drive.store.reconcile(NOW)
        assert drive.store.get(ref).status is JobStatus.EXPIRED
        assert drive.store.get(other).queue_position == 1
        assert start(drive, ref) is None

    def test_a_job_that_started_in_time_does_not(self, drive: Driver):
        ref = drive.ref(queue_timeout_s=1)
        start(drive, ref)
        for _ in range(12):
            time.sleep(0.1)
            beat(drive, running=[(ref, 1)])
            drive.store.reconcile(NOW)
        assert drive.store.get(ref).status is JobStatus.RUNNING

    def test_a_job_that_runs_too_long_is_to_be_stopped(self, drive: Driver):
        ref = drive.ref(execution_timeout_s=1)
        start(drive, ref)
        assert beat(drive, running=[(ref, 1)]) == {}
        for _ in range(11):
            time.sleep(0.1)
            beat(drive, running=[(ref, 1)])
        drive.store.reconcile(NOW)
        assert beat(drive, running=[(ref, 1)]) == {ref: Stop.EXPIRED}


class TestStops:
    def test_a_worker_hears_at_once_which_of_its_jobs_is_canceled(self, drive: Driver):
        mine, others = drive.ref(), drive.ref()
        start(drive, mine, "w1")
        start(drive, others, "w2")
        heard: list[JobRef] = []
        ended = threading.Event()
        listener = threading.Thread(target=drive.store.listen_for_stops, args=("w1", heard.append, ended))
        listener.start()
        try:
            time.sleep(0.2)  # nothing tells when a subscription stands; what is missed, the beat says
            drive.store.cancel(others)
            drive.store.cancel(mine)
            until(lambda: heard, 5)
        finally:
            ended.set()
            listener.join(10)
        assert heard == [mine]
        assert not listener.is_alive()
