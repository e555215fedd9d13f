"""What every JobStore does. Each test runs over the one in memory and over the one on a real server."""

from __future__ import annotations

import time

import pytest

from shared.errors import (
    GoneError,
    IdempotencyInProgressError,
    IdempotencyKeyReusedError,
    InvalidCursorError,
    JobAlreadyFinishedError,
    JobExistsError,
    NotFoundError,
    QueueLimitError,
    RateLimitedError,
)
from shared.job import Choice, JobError, JobRef, JobStatus, Outcome, Priority, PromptEcho, Result, Structure, Usage
from shared.store.protocol import Idempotency, JobFilter, RateLimit, Stop
from shared.store.retention import Retention
from tests.store.conftest import ACCEPTED, FENCED, MODEL, Driver, success, worker


class TestSubmit:
    def test_a_submitted_job_waits_with_everything_the_client_said(self, drive: Driver):
        ref = drive.ref('héllo {x} 你好 \\ " \u2028', user_id="u:1", temperature=0.0, stop=("\n", "。"), seed=2**63 - 1)
        job = drive.store.get(ref)
        assert job.status is JobStatus.QUEUED
        assert job.spec.prompt == 'héllo {x} 你好 \\ " \u2028'
        assert (job.spec.stop, job.spec.seed, job.spec.temperature) == (("\n", "。"), 2**63 - 1, 0.0)
        assert (job.attempt, job.owner, job.started_at, job.output, job.history) == (0, None, None, None, ())
        assert (job.queue_position, job.key_id) == (1, "key_1")
        assert job.eta_ms is not None
        assert job.eta_ms >= 0

    def test_all_that_can_be_said_about_sampling_comes_back(self, drive: Driver):
        asked = {
            "min_p": 0.1,
            "presence_penalty": -2.0,
            "frequency_penalty": 0.5,
            "logit_bias": ((3, -100.0), (17, 2.5)),
            "stop_token_ids": (0, 2**31 - 1),
            "min_tokens": 4,
            "ignore_eos": True,
            "logprobs": 0,
            "echo": True,
            "prompt_token_ids": (5, 6),
            "structure": Structure("json_schema", '{"const":"\\u0000 \\" 你"}'),
            "adapter": "tea",
        }
        spec = drive.store.get(drive.ref("", **asked)).spec
        assert {name: getattr(spec, name) for name in asked} == asked
        assert isinstance(spec.structure, Structure)

    def test_positions_count_up_and_higher_classes_go_first(self, drive: Driver):
        assert drive.submit().positions == (1,)
        assert drive.submit("a", "b").positions == (2, 3)
        assert drive.submit(priority=Priority.HIGH).positions == (1,)
        assert drive.submit(priority=Priority.LOW).positions == (5,)
        assert drive.submit().positions == (5,)

    def test_the_same_ids_again_are_the_same_jobs(self, drive: Driver):
        submission = drive.submission("a", "b")
        first, again = drive.store.submit(submission), drive.store.submit(submission)
        assert (first.ids, first.created_at, first.created) == (again.ids, again.created_at, again.created)
        assert len(drive.store.list_jobs("shop", JobFilter(), None, 10).data) == 2

    def test_a_chosen_id_tells_the_same_payload_from_another(self, drive: Driver):
        submission = drive.submission("a", chosen_id=True)
        assert drive.store.submit(submission).created
        assert not drive.store.submit(submission).created
        other = drive.submission("b", chosen_id=True)
        clash = type(other)(
            "shop", "key_1", (type(other.jobs[0])(submission.jobs[0].id, other.jobs[0].spec),), chosen_id=True
        )
        with pytest.raises(JobExistsError):
            drive.store.submit(clash)
        assert drive.store.get(JobRef("shop", submission.jobs[0].id)).spec.prompt == "a"

    def test_a_cap_of_waiting_jobs_admits_all_or_none(self, drive: Driver):
        drive.submit("a", "b", max_queued=3)
        with pytest.raises(QueueLimitError):
            drive.submit("c", "d", max_queued=3)
        assert len(drive.store.list_jobs("shop", JobFilter(), None, 10).data) == 2
        drive.submit("e", max_queued=3)
        drive.submit("f", key_id="key_2", max_queued=1)

    def test_the_cap_counts_only_what_waits(self, drive: Driver):
        ref = drive.ref("a", max_queued=1)
        drive.claim(ref, "w1", "t")
        second = drive.ref("b", max_queued=1)
        drive.store.cancel(second)
        drive.submit("c", max_queued=1)
        drive.store.release(ref, "w1", 1)
        with pytest.raises(QueueLimitError):
            drive.submit("d", max_queued=2)

    def test_a_rate_limit_counts_and_refuses_without_writing(self, drive: Driver):
        limit = RateLimit("key_1", 2, 60)
        assert [drive.submit(rate_limit=limit).rate.remaining for _ in range(2)] == [1, 0]
        with pytest.raises(RateLimitedError) as refused:
            drive.submit(rate_limit=limit)
        assert 55 <= refused.value.retry_after_s <= 60
        assert (refused.value.limit, refused.value.remaining) == (2, 0)
        assert len(drive.store.list_jobs("shop", JobFilter(), None, 10).data) == 2
        drive.submit(rate_limit=RateLimit("key_2", 2, 60))

    def test_a_window_starts_anew(self, drive: Driver):
        limit = RateLimit("key_1", 1, 1)
        drive.submit(rate_limit=limit)
        time.sleep(1.05)
        assert drive.submit(rate_limit=limit).rate.remaining == 0

    def test_a_window_that_ends_this_very_millisecond_starts_anew(self, drive: Driver):
        store, limit = drive.store, RateLimit("key_1", 1000, 60)
        for _ in range(40):  # some submit or other meets it
            store._client.set(f"{store._prefix}rate:key_1", 0, px=3)
            for _ in range(4):
                assert drive.submit(rate_limit=limit).rate.remaining >= 990


class TestIdempotency:
    def test_the_same_key_and_body_replay_the_receipt(self, drive: Driver):
        idem = Idempotency("scope", "fp", 60)
        first = drive.submit(idempotency=idem)
        again = drive.submit(idempotency=idem)
        assert again.replayed
        assert (again.ids, again.positions, again.etas_ms, again.created_at) == (
            first.ids, first.positions, first.etas_ms, first.created_at,
        )  # fmt: skip
        assert len(drive.store.list_jobs("shop", JobFilter(), None, 10).data) == 1

    def test_another_body_is_refused(self, drive: Driver):
        drive.submit(idempotency=Idempotency("scope", "fp", 60))
        with pytest.raises(IdempotencyKeyReusedError):
            drive.submit(idempotency=Idempotency("scope", "other", 60))

    def test_while_the_first_is_in_its_handler_the_second_waits(self, drive: Driver):
        idem = Idempotency("scope", "fp", 60, in_progress_s=30)
        drive.submit(idempotency=idem)
        with pytest.raises(IdempotencyInProgressError):
            drive.submit(idempotency=idem)
        drive.store.complete_idempotent("scope", '{"status":200}')
        assert drive.submit(idempotency=idem).response == '{"status":200}'

    def test_a_handler_that_died_is_not_waited_for_forever(self, drive: Driver):
        idem = Idempotency("scope", "fp", 60, in_progress_s=1)
        first = drive.submit(idempotency=idem)
        time.sleep(1.05)
        again = drive.submit(idempotency=idem)
        assert (again.ids, again.replayed, again.response) == (first.ids, True, None)

    def test_a_refused_submit_leaves_no_key(self, drive: Driver):
        idem = Idempotency("scope", "fp", 60)
        with pytest.raises(QueueLimitError):
            drive.submit(idempotency=idem, max_queued=0)
        assert not drive.submit(idempotency=idem).replayed

    def test_a_replay_costs_nothing_of_the_rate(self, drive: Driver):
        idem, limit = Idempotency("scope", "fp", 60), RateLimit("key_1", 1, 60)
        drive.submit(idempotency=idem, rate_limit=limit)
        assert drive.submit(idempotency=idem, rate_limit=limit).replayed


class TestClaimAndFinish:
    def test_a_claim_makes_it_running_and_counts_the_attempt(self, drive: Driver):
        ref = drive.ref()
        claim = drive.claim(ref, "w1", "t1")
        assert claim is not None
        assert (claim.job.status, claim.job.attempt, claim.job.owner) == (JobStatus.RUNNING, 1, "w1")
        job = drive.store.get(ref)
        assert (job.status, job.queue_position, job.started_at is not None) == (JobStatus.RUNNING, None, True)

    def test_a_job_is_claimed_once_and_the_same_token_finds_its_claim_again(self, drive: Driver):
        ref = drive.ref()
        first = drive.claim(ref, "w1", "t1")
        assert drive.claim(ref, "w1", "t1") == first
        assert drive.claim(ref, "w1", "t2") is None
        assert drive.claim(ref, "w2", "t1") is None

    def test_an_unknown_job_cannot_be_claimed(self, drive: Driver):
        assert drive.claim(JobRef("shop", "nope"), "w1", "t") is None

    def test_a_finish_writes_the_end(self, drive: Driver):
        ref = drive.running()
        assert drive.finish(ref, "w1", 1, success("hi\n")) == ACCEPTED
        job = drive.store.get(ref)
        assert (job.status, job.output, job.usage) == (JobStatus.SUCCEEDED, "hi\n", Usage(3, 2))
        assert job.choices == (Choice(0, "hi\n", "stop"),)
        assert job.expires_at == job.finished_at + 86_400_000

    def test_the_same_finish_again_is_accepted_and_changes_nothing(self, drive: Driver):
        ref = drive.running(user_id="u")
        drive.finish(ref, "w1", 1, success())
        before = drive.store.get(ref)
        assert drive.finish(ref, "w1", 1, success()) == ACCEPTED
        assert drive.store.get(ref) == before
        assert len(drive.store.history("shop", "u")) == 1

    def test_a_failure_keeps_its_error(self, drive: Driver):
        ref = drive.running()
        error = JobError("generation_failed", "it broke", retryable=True)
        drive.finish(ref, "w1", 1, Outcome(JobStatus.FAILED, error=error, usage=Usage(4, 0)))
        job = drive.store.get(ref)
        assert (job.status, job.error, job.output, job.usage.prompt_tokens) == (JobStatus.FAILED, error, None, 4)

    @pytest.mark.parametrize(("who", "attempt"), [("w2", 1), ("w1", 2), ("w1", 0)])
    def test_who_does_not_own_the_attempt_is_fenced(self, drive: Driver, who: str, attempt: int):
        ref = drive.running()
        assert drive.finish(ref, who, attempt, success()) == FENCED
        assert drive.store.get(ref).status is JobStatus.RUNNING

    def test_another_end_after_the_end_is_fenced(self, drive: Driver):
        ref = drive.running()
        drive.finish(ref, "w1", 1, success())
        assert drive.finish(ref, "w1", 1, Outcome(JobStatus.CANCELED)) == FENCED
        assert drive.store.get(ref).status is JobStatus.SUCCEEDED

    def test_a_waiting_job_cannot_be_finished(self, drive: Driver):
        assert drive.finish(drive.ref(), "w1", 0, success()) == FENCED

    def test_a_released_job_keeps_its_place_and_fences_the_old_attempt(self, drive: Driver):
        first, second = drive.ref("a"), drive.ref("b")
        drive.claim(first, "w1", "t1")
        assert drive.store.release(first, "w1", 1) is not None
        assert drive.store.release(first, "w1", 1) is None
        assert {drive.store.get(ref).queue_position for ref in (first, second)} == {1, 2}
        assert drive.finish(first, "w1", 1, success()) == FENCED
        claim = drive.claim(first, "w1", "t1")
        assert claim is not None
        assert claim.job.attempt == 2
        assert drive.finish(first, "w1", 1, success()) == FENCED

    def test_only_the_owner_may_release(self, drive: Driver):
        ref = drive.running()
        assert None is drive.store.release(ref, "w2", 1)
        assert None is drive.store.release(ref, "w1", 2)
        assert drive.store.get(ref).status is JobStatus.RUNNING

    def test_the_eta_learns_from_execution_times(self, drive: Driver):
        ref = drive.running()
        time.sleep(0.12)
        drive.finish(ref, "w1", 1, success())
        assert drive.store.get(drive.ref()).eta_ms == 0  # a slot is free
        for _ in range(3):
            drive.running()
        drive.claim(drive.ref(), "w1", "t")
        assert 25 <= drive.store.get(drive.ref()).eta_ms <= 150  # its four slots run, one job waits before it
        drive.store.beat(worker(slots=100), [])
        assert drive.store.get(drive.ref()).eta_ms == 0

    def test_etas_are_checked_when_jobs_start(self, drive: Driver):
        waits = drive.ref()
        assert drive.store.fleet().eta_errors["demo"].count == 0
        time.sleep(0.6)
        assert drive.claim(waits, "w1", "t") is not None
        seen = drive.store.fleet().eta_errors["demo"]
        assert (seen.count, list(seen.within.values())) == (1, [1])
        assert 50 <= seen.sum_ms <= 5_000
        drive.store.release(waits, "w1", 1)
        assert drive.claim(waits, "w1", "u") is not None
        assert drive.store.fleet().eta_errors["demo"].count == 1  # a second attempt says nothing of the ETA


class TestCancelAndDelete:
    def test_a_waiting_job_is_canceled_at_once_and_again(self, drive: Driver):
        ref = drive.ref()
        assert drive.store.cancel(ref).status is JobStatus.CANCELED
        assert drive.store.cancel(ref).status is JobStatus.CANCELED
        assert drive.claim(ref, "w1", "t") is None
        assert drive.store.get(ref).expires_at is not None

    def test_a_running_job_is_marked_and_its_worker_is_told(self, drive: Driver):
        ref = drive.running()
        job = drive.store.cancel(ref)
        assert (job.status, job.cancel_requested) == (JobStatus.RUNNING, True)
        assert drive.store.beat(worker(), [(ref, 1)]).stops == {ref: Stop.CANCELED}
        partial = Outcome(JobStatus.CANCELED, (Choice(0, "par", "canceled"),), Usage(3, 1))
        assert drive.finish(ref, "w1", 1, partial) == ACCEPTED
        assert drive.store.get(ref).output == "par"
        assert not drive.store.get(ref).cancel_requested

    def test_an_ended_job_cannot_be_canceled(self, drive: Driver):
        ref = drive.finished()
        with pytest.raises(JobAlreadyFinishedError):
            drive.store.cancel(ref)
        assert drive.store.get(ref).status is JobStatus.SUCCEEDED

    def test_nothing_of_a_deleted_job_stays(self, drive: Driver):
        ref = drive.running(user_id="u")
        drive.finish(ref, "w1", 1, success(cache_key="k"))
        drive.store.delete(ref)
        with pytest.raises(NotFoundError):
            drive.store.get(ref)
        with pytest.raises(NotFoundError):
            drive.store.delete(ref)
        assert drive.store.cached("shop", "k") is None
        assert drive.store.history("shop", "u") == ()
        assert drive.store.list_jobs("shop", JobFilter(), None, 10).data == ()

    def test_deleting_a_waiting_job_frees_its_place(self, drive: Driver):
        first, second = drive.ref(), drive.ref()
        drive.store.delete(first)
        assert drive.store.get(second).queue_position == 1
        assert drive.claim(first, "w1", "t") is None

    def test_a_running_job_that_is_deleted_is_stopped_and_its_end_is_fenced(self, drive: Driver):
        ref = drive.running()
        drive.store.delete(ref)
        assert drive.store.beat(worker(), [(ref, 1)]).stops == {ref: Stop.LOST}
        assert drive.finish(ref, "w1", 1, success()) == FENCED
        with pytest.raises(NotFoundError):
            drive.store.get(ref)

    def test_the_end_of_a_deleted_job_is_not_taken_for_a_new_ones_of_the_same_id(self, drive: Driver):
        submission = drive.submission("first", chosen_id=True)
        ref = JobRef("shop", drive.store.submit(submission).ids[0])
        assert drive.claim(ref, "w1", "t1") is not None
        drive.store.delete(ref)
        drive.store.submit(submission)
        claim = drive.claim(ref, "w1", "t2")
        assert claim is not None
        assert claim.job.attempt == 2
        assert drive.finish(ref, "w1", 1, success("of the deleted one")) == FENCED
        assert drive.finish(ref, "w1", 2, success("new")) == ACCEPTED

    def test_after_its_retention_a_job_is_gone_and_not_unknown(self, drive: Driver):
        ref = drive.finished(result_ttl_s=1)
        time.sleep(1.1)
        with pytest.raises(GoneError):
            drive.store.get(ref)
        with pytest.raises(GoneError):
            drive.store.cancel(ref)
        assert drive.store.list_jobs("shop", JobFilter(), None, 10).data == ()
        drive.store.delete(ref)
        with pytest.raises(NotFoundError):
            drive.store.get(ref)


class TestTenants:
    def test_another_tenants_job_does_not_exist(self, drive: Driver):
        ref = drive.finished(user_id="u")
        other = JobRef("rival", ref.id)
        for call in (drive.store.get, drive.store.cancel, drive.store.delete):
            with pytest.raises(NotFoundError):
                call(other)
        assert drive.claim(other, "w1", "t") is None
        assert drive.store.list_jobs("rival", JobFilter(), None, 10).data == ()
        assert drive.store.history("rival", "u") == ()
        assert drive.store.delete_history("rival", "u") == 0
        assert len(drive.store.history("shop", "u")) == 1

    def test_two_tenants_may_choose_the_same_id(self, drive: Driver):
        one = drive.submission("mine", chosen_id=True)
        two = type(one)(
            "rival",
            "key_2",
            (type(one.jobs[0])(one.jobs[0].id, drive.submission("theirs").jobs[0].spec),),
            chosen_id=True,
        )
        assert drive.store.submit(one).created
        assert drive.store.submit(two).created
        assert drive.store.get(JobRef("rival", one.jobs[0].id)).spec.prompt == "theirs"

    def test_an_end_and_its_cache_entry_keep_log_probabilities_fingerprint_and_echo(self, drive: Driver):
        ref = drive.running()
        choices = (Choice(0, "a", "stop", "packed"), Choice(1, "b", "length"))
        brought = {"system_fingerprint": "fp_1", "echo": PromptEcho("hello", "packed too")}
        outcome = Outcome(JobStatus.SUCCEEDED, choices, Usage(3, 2, 1), cache_key="k", **brought)
        assert drive.finish(ref, "w1", 1, outcome) == ACCEPTED
        assert drive.store.get(ref).result == outcome.result
        assert drive.store.cached("shop", "k") == outcome.result

    def test_a_prompt_of_token_ids_is_no_turn_of_the_conversation(self, drive: Driver):
        for more in ({"prompt_token_ids": (1, 2)}, {}):
            ref = drive.running(user_id="u", **more)
            drive.finish(ref, "w1", 1, success("said"))
        assert [turn.job_id for turn in drive.store.history("shop", "u")] == [ref.id]

    def test_the_cache_does_not_cross_tenants(self, drive: Driver):
        ref = drive.running()
        drive.finish(ref, "w1", 1, success(cache_key="k"))
        assert drive.store.cached("shop", "k") == Result((Choice(0, "world", "stop"),), Usage(3, 2))
        assert drive.store.cached("rival", "k") is None


class TestHistoryAndCache:
    def test_a_conversation_grows_by_what_succeeded_and_keeps_the_newest(self, drive: Driver):
        for number in range(5):
            drive.finished(f"q{number}", f"a{number}", user_id="u")
        failed = drive.running(user_id="u")
        drive.finish(failed, "w1", 1, Outcome(JobStatus.FAILED, error=JobError("x", "x")))
        turns = drive.store.history("shop", "u")
        assert [(turn.input, turn.output) for turn in turns] == [("q2", "a2"), ("q3", "a3"), ("q4", "a4")]
        claim = drive.claim(drive.ref(user_id="u"), "w1", "t")
        assert claim is not None
        assert claim.history == turns

    def test_a_finished_job_shows_the_conversation_up_to_itself(self, drive: Driver):
        first = drive.finished("q0", "a0", user_id="u")
        second = drive.finished("q1", "a1", user_id="u")
        assert [turn.input for turn in drive.store.get(first).history] == ["q0"]
        assert [turn.input for turn in drive.store.get(second).history] == ["q0", "q1"]
        assert drive.store.delete_history("shop", "u") == 2
        assert drive.store.get(second).history == ()
        assert drive.store.history("shop", "u") == ()

    def test_a_job_without_a_user_leaves_no_history(self, drive: Driver):
        assert drive.store.get(drive.finished()).history == ()

    def test_failures_and_cancellations_are_never_cached(self, drive: Driver):
        for status in (JobStatus.FAILED, JobStatus.CANCELED, JobStatus.EXPIRED):
            outcome = Outcome(status, (Choice(0, "x", "stop"),), error=JobError("x", "x"), cache_key="k")
            drive.finish(drive.running(), "w1", 1, outcome)
        assert drive.store.cached("shop", "k") is None

    def test_a_fenced_result_is_not_cached(self, drive: Driver):
        ref = drive.running()
        drive.finish(ref, "w2", 1, success(cache_key="k"))
        assert drive.store.cached("shop", "k") is None


class TestLists:
    def test_newest_first_in_pages_that_miss_and_repeat_nothing(self, drive: Driver):
        ids = [drive.submit().ids[0] for _ in range(7)]
        seen, cursor = [], None
        for _ in range(3):
            page = drive.store.list_jobs("shop", JobFilter(), cursor, 3)
            seen += [job.id for job in page.data]
            cursor = page.next_cursor
            drive.submit()
        assert seen == ids[::-1]
        assert cursor is None

    def test_a_page_that_ends_exactly_has_no_next(self, drive: Driver):
        drive.submit("a", "b", "c")
        assert drive.store.list_jobs("shop", JobFilter(), None, 3).next_cursor is None
        assert drive.store.list_jobs("shop", JobFilter(), None, 2).next_cursor is not None

    def test_filters(self, drive: Driver):
        done = drive.finished(user_id="u")
        time.sleep(0.01)
        waiting = drive.ref()
        where = {
            "status": (JobFilter(status=JobStatus.SUCCEEDED), [done]),
            "user": (JobFilter(user_id="u"), [done]),
            "mode": (JobFilter(mode="support"), []),
            "model": (JobFilter(model="demo"), [waiting, done]),
            "after": (JobFilter(created_after=drive.store.get(done).created_at), [waiting]),
            "before": (JobFilter(created_before=drive.store.get(waiting).created_at), [done]),
        }
        for name, (filtered, expected) in where.items():
            assert [job.ref for job in drive.store.list_jobs("shop", filtered, None, 10).data] == expected, name

    def test_a_filter_finds_what_lies_behind_many_others(self, drive: Driver):
        old = drive.finished()
        for _ in range(25):
            drive.submit(*["x"] * 10)
        page = drive.store.list_jobs("shop", JobFilter(status=JobStatus.SUCCEEDED), None, 5)
        assert [job.ref for job in page.data] == [old]

    @pytest.mark.parametrize("cursor", ["", "x", "!!", "c2Zvbw", "czEyMzQ1Njc4OTAxMjM0NTY3ODkw", "ä", "cy0x"])
    def test_a_cursor_that_we_did_not_make_is_refused(self, drive: Driver, cursor: str):
        with pytest.raises(InvalidCursorError):
            drive.store.list_jobs("shop", JobFilter(), cursor, 3)


class TestFleet:
    @pytest.fixture
    def retention(self) -> Retention:
        return Retention(worker_lease_s=1.2)

    def test_a_worker_is_there_while_it_beats(self, drive: Driver):
        assert drive.store.fleet().workers == ()
        drive.store.beat(worker("w1"), [])
        drive.store.beat(worker("w2", slots=2), [])
        assert {w.id: w.slots for w in drive.store.fleet().workers} == {"w1": 4, "w2": 2}
        assert drive.store.fleet().models == {"demo": MODEL}
        drive.store.depart("w1")
        assert [w.id for w in drive.store.fleet().workers] == ["w2"]
        time.sleep(1.3)
        assert drive.store.fleet().workers == ()
        assert drive.store.fleet().models == {"demo": MODEL}

    def test_a_beat_names_only_the_jobs_to_stop(self, drive: Driver):
        good, lost = drive.running(), drive.running()
        drive.store.release(lost, "w1", 1)
        assert drive.store.beat(worker(), [(good, 1), (lost, 1)]).stops == {lost: Stop.LOST}
        assert drive.store.beat(worker(), [(good, 2)]).stops == {good: Stop.LOST}

    def test_queue_lengths_by_model(self, drive: Driver):
        drive.submit("a", "b")
        assert drive.store.fleet().queue_lengths == {"demo": 2}

    def test_a_tokenizer_is_kept_byte_for_byte(self, drive: Driver):
        content = bytes(range(256)) * 10
        drive.store.put_tokenizer("d", content)
        assert drive.store.tokenizer("d") == content
        assert drive.store.tokenizer("x") is None
