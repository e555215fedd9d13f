"""Batches: admission in chunks, counts, results, cancel, delete, retention. Over both stores, with chunks and steps of two
jobs, so that five jobs make a large batch."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared.errors import (
    AuthenticationError,
    BatchAlreadyFinishedError,
    ForeignCursorError,
    GoneError,
    IdempotencyInProgressError,
    IdempotencyKeyReusedError,
    InvalidCursorError,
    JobNotRetryableError,
    NotFoundError,
    QueueFullError,
    QueueLimitError,
    RateLimitedError,
    StoreUnavailableError,
)
from shared.job import Choice, JobError, JobRef, JobStatus, Outcome, Usage
from shared.store.batches import NewBatch, parse_result_cursor, result_cursor
from shared.store.protocol import Idempotency, JobFilter, Patience, RateLimit
from shared.store.redis import RedisStore
from shared.store.retention import Retention
from tests.store.batching import Batches, make_small
from tests.store.conftest import Driver, success, worker

CANCELED, FAILED, QUEUED = JobStatus.CANCELED, JobStatus.FAILED, JobStatus.QUEUED
NOW = Patience(pause_s=0)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch, 2)


@pytest.fixture
def batches(store: RedisStore) -> Batches:
    return Batches(store)


def end(drive: Driver, ref: JobRef, output: str = "world", *, status: JobStatus = JobStatus.SUCCEEDED) -> None:
    """Claim and finish."""
    claim = drive.claim(ref)
    assert claim is not None
    outcome = success(output) if status is JobStatus.SUCCEEDED else Outcome(status)
    drive.finish(ref, "w1", claim.job.attempt, outcome)


def listed(drive: Driver, tenant: str = "shop") -> list[str]:
    return [job.id for job in drive.store.list_jobs(tenant, JobFilter(), None, 100).data]


class TestAdmission:
    def test_a_batch_of_several_chunks_is_one_batch(self, drive: Driver, batches: Batches):
        receipt, refs = batches.admit(5)
        assert (receipt.id, receipt.size, receipt.created, receipt.more) == ("b1", 5, True, True)
        batches.finish_steps()
        assert listed(drive) == [ref.id for ref in reversed(refs)], "the newest first"
        job = drive.store.get(refs[3])
        assert (job.spec.prompt, job.custom_id, job.batch_id, job.status) == ("prompt 3", "row-3", "b1", QUEUED)
        assert job.created_at == receipt.created_at
        assert [drive.store.get(ref).queue_position for ref in refs] == [1, 2, 3, 4, 5]
        assert batches.counts() == {"queued": 5}
        batch = drive.store.get_batch("shop", "b1", with_jobs=True)
        assert [one.ref for one in batch.jobs or ()] == refs
        assert (batch.size, batch.total, batch.done, batch.created_at) == (5, 5, False, receipt.created_at)

    def test_a_batch_of_one_chunk_is_one_call(self, drive: Driver, batches: Batches):
        drive.store.beat(worker("w1"), [])
        receipt, refs = batches.admit(2)
        assert not receipt.more
        assert [hint.ref for hint in receipt.hints] == refs
        assert batches.due() is None, "nothing is left to do"

    def test_the_first_jobs_are_sent_before_the_last_have_a_record(self, drive: Driver, batches: Batches):
        drive.store.beat(worker("w1"), [])
        receipt, refs = batches.admit(5)
        assert [hint.ref for hint in receipt.hints] == refs[:2]
        end(drive, refs[0])
        with pytest.raises(NotFoundError):
            drive.store.get(refs[4])
        assert batches.counts() == {"queued": 4, "succeeded": 1}
        assert [hint.ref for hint in batches.finish_steps()] == refs[2:]

    def test_nothing_is_seen_of_a_batch_that_is_still_coming(self, drive: Driver, batches: Batches):
        submission = batches.submission(5)
        batches.crash_after(2, submission)
        with pytest.raises(NotFoundError):
            drive.store.get_batch("shop", "b1")
        for act in (drive.store.cancel_batch, drive.store.delete_batch):
            with pytest.raises(NotFoundError):
                act("shop", "b1")
        assert drive.store.list_batches("shop", None, 10).data == ()
        assert listed(drive) == []
        assert drive.store.step_batch("shop", "b1") == (False, ())
        with pytest.raises(NotFoundError):
            drive.store.get(JobRef("shop", submission.jobs[0].id))
        assert drive.claim(JobRef("shop", submission.jobs[0].id)) is None
        assert drive.store.fleet().queue_lengths == {}

    @pytest.mark.parametrize("calls", [1, 2])
    def test_a_crash_between_chunks_is_rolled_back(self, drive: Driver, batches: Batches, calls: int):
        before = batches.keys()
        batches.crash_after(calls, batches.submission(5, idempotency=Idempotency("scope", "fp", 60)))
        assert not drive.store.reconcile(NOW).hints, "its time has not come"
        assert batches.due() is not None
        batches.reconcile()
        assert batches.keys() <= before | {"staged"}
        batches.submit(5, idempotency=Idempotency("scope", "fp", 60), max_queued=5, max_waiting=5)

    def test_a_chunk_after_the_rollback_accepts_nothing(self, drive: Driver, batches: Batches):
        submission = batches.submission(5)
        run = drive.store._scripts.run

        def slow(name, *args):
            answer = run(name, *args)
            if name == "batch_admit":
                batches.reconcile()
            return answer

        drive.store._scripts.run = slow
        with pytest.raises(StoreUnavailableError):
            drive.store.submit_batch(submission, NewBatch("b1"))
        assert listed(drive) == []

    def test_each_call_may_be_repeated(self, drive: Driver, batches: Batches):
        run = drive.store._scripts.run

        def twice(*args):
            answer = run(*args)
            again = run(*args)
            if args[0] == "batch_admit":
                assert [answer[0], answer[1:][:1]] == [again[0], again[1:][:1]] or answer[0] == "stored"
            return answer

        limit = RateLimit("key_1", 10, 60)
        drive.store._scripts.run = twice
        submission = batches.submission(5, rate_limit=limit, idempotency=Idempotency("scope", "fp", 60))
        receipt = drive.store.submit_batch(submission, NewBatch("b1"))
        assert receipt.rate.remaining == 9
        batches.finish_steps()
        drive.store._scripts.run = run
        assert len(listed(drive)) == 5
        assert batches.counts() == {"queued": 5}
        assert drive.submit(rate_limit=limit).rate.remaining == 8

    def test_the_reconciler_gets_into_line_what_the_api_left(self, drive: Driver, batches: Batches):
        drive.store.beat(worker("w1"), [])
        _, refs = batches.admit(5)
        assert [hint.ref for hint in batches.reconcile().hints] == refs[2:4]
        assert [hint.ref for hint in batches.reconcile().hints] == refs[4:]
        assert batches.due() is None
        assert len(listed(drive)) == 5

    def test_caps_count_what_is_staged(self, drive: Driver, batches: Batches):
        batches.crash_after(1, batches.submission(5))
        with pytest.raises(QueueLimitError):
            batches.admit(5, "b2", max_queued=9)
        with pytest.raises(QueueLimitError):
            drive.submit(max_queued=5)
        with pytest.raises(QueueFullError):
            drive.submit(max_waiting=5)
        with pytest.raises(QueueFullError):
            batches.admit(5, "b2", max_waiting=9)
        batches.submit(5, "b2", max_queued=10, max_waiting=10)
        assert drive.store.fleet().queue_lengths == {"demo": 10}
        batches.reconcile("b1")
        assert drive.store.fleet().queue_lengths == {"demo": 5}
        batches.submit(5, "b3", max_queued=10, max_waiting=10)

    def test_a_cap_that_is_too_low_admits_none(self, drive: Driver, batches: Batches):
        before = batches.keys()
        with pytest.raises(QueueLimitError):
            batches.admit(5, max_queued=4)
        assert batches.keys() == before

    def test_a_batch_costs_what_it_is_said_to(self, drive: Driver, batches: Batches):
        limit = RateLimit("key_1", 2, 60)
        assert [batches.admit(5, f"b{n}", rate_limit=limit)[0].rate.remaining for n in range(2)] == [1, 0]
        with pytest.raises(RateLimitedError):
            batches.admit(5, "b3", rate_limit=limit)

    def test_a_key_without_tokens_or_a_revoked_one(self, drive: Driver, batches: Batches):
        end(drive, drive.ref())
        with pytest.raises(RateLimitedError):
            batches.admit(5, tokens_per_day=5)
        assert batches.admit(5, tokens_per_day=6)[0].tokens.remaining == 1
        with pytest.raises(AuthenticationError):
            batches.admit(5, "b2", key_digest="gone")

    def test_an_idempotency_key_replays_the_receipt(self, drive: Driver, batches: Batches):
        idem = Idempotency("scope", "fp", 60)
        first, _ = batches.admit(5, idempotency=idem)
        again, _ = batches.admit(5, "b2", idempotency=idem)
        assert (again.id, again.size, again.created_at, again.eta_ms) == ("b1", 5, first.created_at, first.eta_ms)
        assert (again.replayed, again.created) == (True, False)
        with pytest.raises(IdempotencyKeyReusedError):
            batches.admit(5, "b3", idempotency=Idempotency("scope", "other", 60))
        with pytest.raises(NotFoundError):
            drive.store.get_batch("shop", "b2")

    def test_while_the_first_is_still_coming_the_second_waits(self, drive: Driver, batches: Batches):
        idem = Idempotency("scope", "fp", 60)
        batches.crash_after(1, batches.submission(5, idempotency=idem))
        with pytest.raises(IdempotencyInProgressError):
            batches.admit(5, "b2", idempotency=idem)
        batches.reconcile()
        assert not batches.admit(5, "b2", idempotency=idem)[0].replayed

    def test_another_tenants_job_waits_behind_what_runs_and_not_behind_the_batch(self, drive: Driver, batches: Batches):
        drive.store.beat(worker("w1", slots=1), [])
        refs = batches.submit(30)
        other = drive.ref(tenant="mill")
        end(drive, refs[0])
        end(drive, refs[1])
        assert batches.client.zscore(f"{batches.prefix}sent:demo", str(other)) is not None


class TestCounts:
    def test_they_follow_every_job(self, drive: Driver, batches: Batches):
        refs = batches.submit(6)
        drive.claim(refs[0])
        assert batches.counts() == {"queued": 5, "running": 1}
        drive.store.release(refs[0], "w1", 1)
        assert batches.counts() == {"queued": 6}
        end(drive, refs[0])
        end(drive, refs[1], status=FAILED)
        drive.store.cancel(refs[2])
        assert batches.counts() == {"queued": 3, "succeeded": 1, "failed": 1, "canceled": 1}
        drive.store.retry(refs[1])
        assert batches.counts() == {"queued": 4, "succeeded": 1, "canceled": 1}
        drive.store.delete(refs[2])
        drive.store.delete(refs[3])
        assert batches.counts() == {"queued": 3, "succeeded": 1}
        batch = drive.store.get_batch("shop", "b1", with_jobs=True)
        assert (batch.size, batch.total) == (6, 4)
        assert [job.ref for job in batch.jobs or ()] == [refs[0], refs[1], refs[4], refs[5]]

    def test_a_job_that_crashed_its_workers_is_counted(self, drive: Driver, batches: Batches):
        (ref,) = batches.submit(1)
        drive.claim(ref)
        batches.client.zadd(f"{batches.prefix}workers", {"w1": 1})
        batches.client.delete(f"{batches.prefix}worker:w1")
        drive.store.reconcile(Patience(1000, 1000, most_crashes=1, pause_s=0))
        assert batches.counts() == {"failed": 1}
        assert drive.store.get_batch("shop", "b1").done

    def test_the_last_end_completes_it_and_tells_who_listens(self, drive: Driver, batches: Batches):
        refs = batches.submit(3)
        with batches.client.pubsub() as subscription:
            subscription.subscribe(f"{batches.prefix}ended")
            for ref in refs:
                assert not drive.store.get_batch("shop", "b1").done
                end(drive, ref)
            told = [m["data"] for m in iter(lambda: subscription.get_message(timeout=0.1), None)][1:]
        batch = drive.store.get_batch("shop", "b1")
        assert 0 <= batch.completed_at - drive.store.get(refs[-1]).finished_at < 100
        assert told.count("shop:b1") == 1
        assert set(told) == {"shop:b1", *map(str, refs)}

    def test_deleting_the_last_that_waits_completes_it(self, drive: Driver, batches: Batches):
        refs = batches.submit(2)
        end(drive, refs[0])
        drive.store.delete(refs[1])
        assert drive.store.get_batch("shop", "b1").done

    def test_a_retry_opens_it_again(self, drive: Driver, batches: Batches):
        refs = batches.submit(2)
        end(drive, refs[0], status=FAILED)
        end(drive, refs[1])
        drive.store.retry(refs[0])
        batch = drive.store.get_batch("shop", "b1")
        assert (batch.done, batches.due()) == (False, None)
        end(drive, refs[0])
        assert drive.store.get_batch("shop", "b1").done

    def test_batches_do_not_cross_tenants(self, drive: Driver, batches: Batches):
        batches.submit(2)
        for act in (drive.store.get_batch, drive.store.cancel_batch, drive.store.delete_batch):
            with pytest.raises(NotFoundError):
                act("rival", "b1")
        with pytest.raises(NotFoundError):
            drive.store.batch_results("rival", "b1", 0, 10)
        assert drive.store.list_batches("rival", None, 10).data == ()

    def test_conversations_come_with_the_jobs(self, drive: Driver, batches: Batches):
        refs = batches.submit(3, user_id="ann")
        for ref in refs:
            end(drive, ref)
        jobs = drive.store.get_batch("shop", "b1", with_jobs=True).jobs or ()
        assert [len(job.history) for job in jobs] == [1, 2, 3]

    def test_a_list_in_pages_newest_first(self, drive: Driver, batches: Batches):
        for number in range(5):
            batches.submit(2, f"b{number}")
        drive.store.delete_batch("shop", "b3")
        seen, cursor = [], None
        while True:
            page = drive.store.list_batches("shop", cursor, 2)
            seen.append([batch.id for batch in page.data])
            cursor = page.next_cursor
            if cursor is None:
                break
        assert seen == [["b4", "b2"], ["b1", "b0"]]
        with pytest.raises(InvalidCursorError):
            drive.store.list_batches("shop", "nonsense", 2)


class TestResults:
    def test_they_come_in_the_order_of_the_ends_while_it_runs(self, drive: Driver, batches: Batches):
        refs = batches.submit(5)
        assert batches.results() == []
        end(drive, refs[3], "three")
        end(drive, refs[0], "zero")
        first = batches.results()
        assert [(row.id, row.index, row.custom_id, row.result.choices[0].text) for row in first] == [
            (refs[3].id, 3, "row-3", "three"), (refs[0].id, 0, "row-0", "zero"),
        ]  # fmt: skip
        drive.store.cancel(refs[1])
        drive.claim(refs[2])
        error = JobError("generation_failed", "it broke", retryable=True)
        drive.finish(refs[2], "w1", 1, Outcome(FAILED, error=error, usage=Usage(4, 0)))
        more = batches.results(after=first[-1].place)
        assert [(row.index, row.status, row.error) for row in more] == [(1, CANCELED, None), (2, FAILED, error)]
        assert more[1].finished_at == drive.store.get(refs[2]).finished_at
        assert (more[1].result.usage, first[0].result.usage) == (Usage(4, 0), Usage(3, 2))
        end(drive, refs[4], "four")
        assert [row.index for row in batches.results()] == [3, 0, 1, 2, 4], "across several reads"

    def test_a_page_says_where_it_ends(self, drive: Driver, batches: Batches):
        refs = batches.submit(5)
        for ref in refs:
            end(drive, ref)
        page = drive.store.batch_results("shop", "b1", 0, 4)
        assert (len(page.rows), page.last) == (2, 4)
        assert drive.store.batch_results("shop", "b1", 4, 4).last == 5
        assert drive.store.batch_results("shop", "b1", 5, 4).last == 5

    def test_a_retry_takes_a_job_out_and_its_next_end_is_the_newest(self, drive: Driver, batches: Batches):
        refs = batches.submit(3)
        end(drive, refs[0], status=FAILED)
        end(drive, refs[1])
        known = batches.results()[-1].place
        drive.store.retry(refs[0])
        assert [row.index for row in batches.results()] == [1]
        end(drive, refs[0], "at last")
        assert [row.index for row in batches.results()] == [1, 0]
        assert [row.result.choices for row in batches.results(after=known)] == [(Choice(0, "at last", "stop"),)]

    def test_a_deleted_job_has_none(self, drive: Driver, batches: Batches):
        refs = batches.submit(3)
        for ref in refs:
            end(drive, ref)
        drive.store.delete(refs[1])
        assert [row.index for row in batches.results()] == [0, 2]
        assert drive.store.get_batch("shop", "b1").total == 2

    def test_a_place_that_never_was(self, drive: Driver, batches: Batches):
        refs = batches.submit(3)
        end(drive, refs[0])
        with pytest.raises(ForeignCursorError):
            drive.store.batch_results("shop", "b1", 2, 10)

    def test_cursors_are_a_batchs_own(self):
        assert parse_result_cursor("b1", result_cursor("b1", 7)) == 7
        assert parse_result_cursor("b1", None) == 0
        for text in (result_cursor("b2", 7), "7", "", "7.00000000", result_cursor("b1", 7) + "0", "x.y", "٧.00000000"):
            with pytest.raises(ForeignCursorError):
                parse_result_cursor("b1", text)


class TestCancel:
    def test_all_that_waits_ends_and_what_runs_is_stopped(self, drive: Driver, batches: Batches):
        refs = batches.submit(6)
        end(drive, refs[0])
        drive.claim(refs[1])
        drive.store.cancel_batch("shop", "b1")
        batches.finish_steps()
        assert batches.counts() == {"succeeded": 1, "running": 1, "canceled": 4}
        batch = drive.store.get_batch("shop", "b1")
        assert (batch.cancel_requested, batch.done) == (True, False)
        assert drive.store.get(refs[1]).cancel_requested
        drive.finish(refs[1], "w1", 1, Outcome(CANCELED, (Choice(0, "par", "canceled"),)))
        assert drive.store.get_batch("shop", "b1").done
        assert len(batches.results()) == 6, "results survive"
        drive.store.cancel_batch("shop", "b1")
        assert batches.finish_steps() == []

    def test_nothing_of_it_starts_once_it_was_requested(self, drive: Driver, batches: Batches):
        refs = batches.submit(3)
        drive.store.cancel_batch("shop", "b1")
        assert drive.claim(refs[0]) is None
        assert drive.store.get(refs[0]).status is CANCELED
        assert batches.counts() == {"queued": 2, "canceled": 1}

    def test_what_is_not_in_line_yet_ends_too(self, drive: Driver, batches: Batches):
        _, refs = batches.admit(5)
        drive.store.cancel_batch("shop", "b1")
        assert batches.finish_steps() == []
        assert batches.counts() == {"canceled": 5}
        assert [drive.store.get(ref).status for ref in refs] == [CANCELED] * 5
        assert drive.store.fleet().queue_lengths == {"demo": 0}
        drive.submit(max_queued=1, max_waiting=1)

    def test_the_reconciler_goes_on_with_it(self, drive: Driver, batches: Batches):
        batches.submit(5)
        drive.store.cancel_batch("shop", "b1")
        for left in (3, 1, 0):
            batches.reconcile()
            assert batches.counts().get("queued", 0) == left
        assert drive.store.get_batch("shop", "b1").done
        assert batches.due() > 1, "when its retention is over"

    def test_the_room_that_it_leaves_is_for_others(self, drive: Driver, batches: Batches):
        drive.store.beat(worker("w1", slots=1), [])
        batches.submit(5)
        other = drive.ref()
        drive.store.cancel_batch("shop", "b1")
        assert [hint.ref for hint in batches.finish_steps()] == [other]

    def test_a_completed_batch_cannot_be_canceled(self, drive: Driver, batches: Batches):
        for ref in batches.submit(2):
            end(drive, ref)
        with pytest.raises(BatchAlreadyFinishedError):
            drive.store.cancel_batch("shop", "b1")
        assert not drive.store.get_batch("shop", "b1").cancel_requested

    def test_a_job_may_be_retried_after_the_cancel_and_not_during_it(self, drive: Driver, batches: Batches):
        refs = batches.submit(3)
        drive.store.cancel_batch("shop", "b1")
        drive.store.step_batch("shop", "b1")
        with pytest.raises(JobNotRetryableError):
            drive.store.retry(refs[0])
        batches.finish_steps()
        drive.store.retry(refs[0])
        batch = drive.store.get_batch("shop", "b1")
        assert (batch.cancel_requested, batch.done) == (False, False)
        end(drive, refs[0])
        assert batches.counts() == {"succeeded": 1, "canceled": 2}


class TestDelete:
    @pytest.mark.parametrize("in_line", [True, False])
    def test_nothing_of_it_stays(self, drive: Driver, batches: Batches, in_line: bool):
        drive.store.beat(worker("w1"), [])
        before = batches.keys()
        refs = batches.submit(6, user_id="ann") if in_line else batches.admit(6, user_id="ann")[1]
        end(drive, refs[0])
        drive.claim(refs[1])
        drive.store.delete_batch("shop", "b1")
        with pytest.raises(NotFoundError):
            drive.store.get_batch("shop", "b1")
        with pytest.raises(NotFoundError):
            drive.store.delete_batch("shop", "b1")
        batches.finish_steps()
        left = batches.keys() - before
        assert {name.partition(":")[0] for name in left} <= {"attempts", "usage", "spent", "staged", "tenants"}, left
        assert drive.store.beat(worker("w1"), [(refs[1], 1)]).stops == {refs[1]: "lost"}
        assert drive.store.fleet().queue_lengths == {"demo": 0}
        drive.submit(max_queued=1, max_waiting=1)

    def test_the_reconciler_goes_on_with_it(self, drive: Driver, batches: Batches):
        refs = batches.submit(5)
        drive.store.delete_batch("shop", "b1")
        for left in (3, 1, 0):
            batches.reconcile()
            assert len(listed(drive)) == left
        assert batches.due() is None
        with pytest.raises(NotFoundError):
            drive.store.get(refs[0])


class TestRetention:
    @pytest.fixture
    def retention(self) -> Retention:
        return Retention(result_ttl_s=1000, history_max_turns=3, worker_lease_s=60)

    def ttl(self, batches: Batches, ref: JobRef) -> int:
        return batches.client.ttl(f"{batches.prefix}job:{ref}")

    def test_records_live_as_long_as_the_batch(self, drive: Driver, batches: Batches):
        refs = batches.submit(3, result_ttl_s=5000)
        end(drive, refs[0])
        assert drive.store.get(refs[0]).expires_at is None
        assert self.ttl(batches, refs[0]) == -1
        end(drive, refs[1])
        drive.store.cancel(refs[2])
        completed_at = drive.store.get_batch("shop", "b1").completed_at
        assert batches.due() == completed_at + 5_000_000
        assert {drive.store.get(ref).expires_at for ref in refs} == {completed_at + 5_000_000}
        assert {job.expires_at for job in drive.store.list_jobs("shop", JobFilter(), None, 10).data} == {
            completed_at + 5_000_000
        }

    def test_then_they_go_together(self, drive: Driver, batches: Batches):
        before = batches.keys()
        refs = batches.submit(5)
        for ref in refs:
            end(drive, ref)
        batches.reconcile()
        assert drive.store.get_batch("shop", "b1").done, "looked at, and not over yet"
        batches.client.hset(f"{batches.prefix}batch:shop:b1", "expires_at", 1)
        with pytest.raises(NotFoundError):
            drive.store.get_batch("shop", "b1")
        for _ in range(3):
            batches.reconcile()
        for ref in refs:
            with pytest.raises(GoneError):
                drive.store.get(ref)
        left = batches.keys() - before
        assert {name.partition(":")[0] for name in left} <= {"tomb", "usage", "spent", "staged", "tenants"}, left

    def test_the_longest_wish_of_its_jobs_counts(self, drive: Driver, batches: Batches):
        submission = batches.submission(2)
        longer = batches.submission(1, result_ttl_s=2000).jobs
        drive.store.submit_batch(replace(submission, jobs=submission.jobs + longer), NewBatch("b1"))
        assert batches.client.hget(f"{batches.prefix}batch:shop:b1", "ttl_ms") == "2000000"

    def test_a_batch_keeps_where_its_completion_is_told(self, drive: Driver, batches: Batches):
        drive.store.submit_batch(batches.submission(3), NewBatch("b1", "https://example.com/x", "batch.completed"))
        fields = batches.client.hmget(f"{batches.prefix}batch:shop:b1", "hook_url", "hook_filter")
        assert fields == ["https://example.com/x", "batch.completed"]
