"""What every store does with the events of jobs."""

from __future__ import annotations

import time

import pytest

from shared.errors import GoneError, NotFoundError, StreamCursorError, StreamGoneError
from shared.job import Choice, JobError, JobRef, JobStatus, Outcome
from shared.store.events import Event, Said, Told
from shared.store.protocol import Patience, Stop
from shared.store.retention import Retention
from tests.store.conftest import ACCEPTED, FENCED, Driver, success, worker

WHOLE = 10_000


def events(drive: Driver, ref: JobRef, after: int = 0) -> list[tuple[int, str, str]]:
    return [(event.number, event.kind, event.value) for event in drive.store.log(ref, after, WHOLE).after(after)]


def say(drive: Driver, ref: JobRef, *texts: str, attempt: int = 1, since: int = 0, who: str = "w1") -> int:
    said = Said(ref, attempt, since, tuple(("0", text) for text in texts))
    return drive.store.progress(who, [said])[0].count


def end(
    drive: Driver, ref: JobRef, *texts: str, since: int = 0, attempt: int = 1, outcome: Outcome | None = None
) -> str:
    said = Said(ref, attempt, since, tuple(("0", text) for text in texts))
    return drive.store.finish(ref, "w1", attempt, outcome or success("".join(texts)), said)[0]


class TestLog:
    def test_a_life_from_its_first_event_to_its_last(self, drive: Driver):
        ref = drive.ref()
        assert events(drive, ref) == [(1, "queued", "")]
        drive.claim(ref)
        assert events(drive, ref, 1) == [(2, "started", "1")]
        assert say(drive, ref, "wo", "r") == 2
        assert end(drive, ref, "ld\n", since=2) == ACCEPTED
        assert events(drive, ref) == [
            (1, "queued", ""), (2, "started", "1"), (3, "0", "wo"), (4, "0", "r"), (5, "0", "ld\n"), (6, "succeeded", ""),
        ]  # fmt: skip
        assert events(drive, ref, 4) == [(5, "0", "ld\n"), (6, "succeeded", "")]
        assert events(drive, ref, 6) == []
        assert drive.store.latest([ref, JobRef("shop", "none")]) == [6, 0]

    @pytest.mark.parametrize("text", ["", " ", "a b  c", "你好🙂", "\x00\n\r\u2028", '"\\{}', "12 started x"])
    def test_text_comes_back_as_it_was_said(self, drive: Driver, text: str):
        ref = drive.running()
        say(drive, ref, text, text)
        assert events(drive, ref, 2) == [(3, "0", text), (4, "0", text)]

    def test_several_jobs_and_completions_in_one_call(self, drive: Driver):
        first, second = drive.running(), drive.running()
        said = [Said(first, 1, 0, (("0", "a"), ("2", "b"))), Said(second, 1, 0, (("1", "c"),))]
        assert drive.store.progress("w1", said) == [Told(2, watched=False), Told(1, watched=False)]
        assert events(drive, first, 2) == [(3, "0", "a"), (4, "2", "b")]
        assert events(drive, second, 2) == [(3, "1", "c")]

    def test_saying_it_again_adds_nothing(self, drive: Driver):
        ref = drive.running()
        assert say(drive, ref, "a", "b") == 2
        assert say(drive, ref, "a", "b") == 2
        assert say(drive, ref, "b", "c", since=1) == 3
        assert end(drive, ref, "a", "b", "c", "d") == ACCEPTED
        assert end(drive, ref, "a", "b", "c", "d") == ACCEPTED
        assert [value for _, _, value in events(drive, ref, 2)] == ["a", "b", "c", "d", ""]

    def test_what_follows_something_that_is_not_there_is_not_logged(self, drive: Driver):
        ref = drive.running()
        assert say(drive, ref, "a") == 1
        assert say(drive, ref, "c", since=2) == 1
        assert events(drive, ref, 2) == [(3, "0", "a")]

    def test_an_end_after_a_log_that_lost_something_leaves_no_wrong_text(self, drive: Driver):
        ref = drive.running()
        say(drive, ref, "a")
        assert end(drive, ref, "c", since=2) == ACCEPTED
        with pytest.raises(StreamGoneError):
            events(drive, ref, 2)
        assert events(drive, ref, 3) == [(4, "succeeded", "")]

    @pytest.mark.parametrize(("who", "attempt"), [("w2", 1), ("w1", 2), ("w1", 0)])
    def test_who_does_not_own_the_attempt_says_nothing(self, drive: Driver, who: str, attempt: int):
        ref = drive.running()
        assert say(drive, ref, "x", who=who, attempt=attempt) == -1
        assert events(drive, ref, 2) == []

    @pytest.mark.parametrize("status", ["queued", "ended", "unknown", "deleted"])
    def test_nor_does_one_of_a_job_that_does_not_run(self, drive: Driver, status: str):
        ref = (
            JobRef("shop", "unknown") if status == "unknown" else drive.ref() if status == "queued" else drive.running()
        )
        if status == "ended":
            end(drive, ref)
        if status == "deleted":
            drive.store.delete(ref)
        assert say(drive, ref, "x") == -1

    def test_a_fenced_finish_says_nothing(self, drive: Driver):
        ref = drive.running()
        assert end(drive, ref, "x", attempt=2) == FENCED
        assert events(drive, ref, 2) == []

    def test_cursors(self, drive: Driver):
        ref = drive.running()
        say(drive, ref, "a", "b")
        assert events(drive, ref, 4) == []
        for number in (5, 10**14):
            with pytest.raises(StreamCursorError):
                events(drive, ref, number)
        for other in (JobRef("rival", ref.id), JobRef("shop", "nope")):
            with pytest.raises(NotFoundError):
                drive.store.log(other, 0, WHOLE)

    def test_a_page_is_a_beginning(self, drive: Driver):
        ref = drive.running()
        end(drive, ref, *"abcdef")
        assert [e.number for e in drive.store.log(ref, 0, 3).after(0)] == [1, 2, 3, 4]
        assert [e.number for e in drive.store.log(ref, 4, 3).after(4)] == [5, 6, 7]
        assert [e.number for e in drive.store.log(ref, 7, 3).after(7)] == [8, 9]
        assert [e.number for e in drive.store.log(ref, 2, 3).after(4)] == [5], "asked for by one that is behind"


class TestLives:
    def test_a_job_that_is_run_again_starts_again(self, drive: Driver):
        ref = drive.running()
        say(drive, ref, "a")
        drive.store.release(ref, "w1", 1)
        assert events(drive, ref, 3) == []
        drive.claim(ref, "w1", "again")
        assert say(drive, ref, "b", attempt=2) == 1
        assert events(drive, ref, 3) == [(4, "restarted", "2"), (5, "0", "b")]

    def test_a_worker_that_is_gone_leaves_the_log_open(self, drive: Driver):
        drive.store.beat(worker("w2"), [])
        ref = drive.running("w2")
        say(drive, ref, "a", who="w2")
        drive.store.depart("w2")
        drive.claim(ref, "w1", "t2")
        assert say(drive, ref, "b", who="w2") == -1
        end(drive, ref, "c", attempt=2)
        assert [kind for _, kind, _ in events(drive, ref)] == ["queued", "started", "0", "restarted", "0", "succeeded"]

    def test_a_retry_counts_on_and_drops_the_older_log(self, drive: Driver):
        ref = drive.running()
        end(drive, ref, "a", outcome=Outcome(JobStatus.FAILED, error=JobError("x", "x")))
        assert events(drive, ref, 3) == [(4, "failed", "")]
        drive.store.retry(ref)
        assert events(drive, ref) == events(drive, ref, 2) == events(drive, ref, 4) == [(5, "queued", "")]
        drive.claim(ref, "w1", "t2")
        say(drive, ref, "b", attempt=2)
        assert events(drive, ref, 1) == [(5, "queued", ""), (6, "restarted", "2"), (7, "0", "b")]
        assert events(drive, ref, 6) == [(7, "0", "b")]
        end(drive, ref, "b", attempt=2)
        assert events(drive, ref, 7) == [(8, "succeeded", "")]

    @pytest.mark.parametrize("how", ["cancel", "purge"])
    def test_a_job_that_never_ran_has_an_end_and_no_log(self, drive: Driver, how: str, redis_like):
        ref = drive.ref()
        if how == "cancel":
            drive.store.cancel(ref)
        else:
            drive.store.purge("demo")
        assert events(drive, ref) == [(1, "queued", ""), (2, "canceled", "")]
        assert not logs(drive, redis_like)
        drive.store.retry(ref)
        assert events(drive, ref, 2) == [(3, "queued", "")]

    def test_what_a_canceled_job_had_said_is_its_output(self, drive: Driver):
        ref = drive.running()
        say(drive, ref, "par")
        drive.store.cancel(ref)
        partial = Outcome(JobStatus.CANCELED, (Choice(0, "part", "canceled"),))
        assert end(drive, ref, "t", since=1, outcome=partial) == ACCEPTED
        assert events(drive, ref, 2) == [(3, "0", "par"), (4, "0", "t"), (5, "canceled", "")]

    def test_a_waiting_job_that_is_too_late_ends(self, drive: Driver):
        ref = drive.ref(queue_timeout_s=1)
        time.sleep(1.1)
        drive.store.reconcile(Patience(pause_s=0))
        assert events(drive, ref) == [(1, "queued", ""), (2, "expired", "")]

    def test_nothing_of_a_deleted_jobs_log_stays(self, drive: Driver, redis_like):
        ref = drive.running()
        say(drive, ref, "a")
        drive.store.delete(ref)
        assert drive.store.beat(worker(), [(ref, 1)]).stops == {ref: Stop.LOST}
        with pytest.raises(NotFoundError):
            drive.store.log(ref, 0, WHOLE)
        assert not logs(drive, redis_like)

    def test_the_log_is_told_as_it_grows(self, drive: Driver, redis_like):
        ref = drive.ref()
        with redis_like.pubsub() as heard:
            heard.subscribe(f"{drive.store._prefix}events:{ref}")
            drive.claim(ref)
            said = [Said(other, 1, 0, (("0", "a b\n"),)) for other in (ref, drive.running())]
            assert [told.watched for told in drive.store.progress("w1", said)] == [True, False]
            assert drive.store.progress("w1", said[:1]) == [Told(1, watched=False)], "nothing new, so nobody was asked"
            end(drive, ref, "c", since=1)
            drive.store.delete(ref)
            told = []
            while message := heard.get_message(timeout=0.2):
                if message["type"] == "message":
                    told.append(Event.parse(message["data"]))
        assert told == [
            Event(2, "started", "1"), Event(3, "0", "a b\n"), Event(4, "0", "c"), Event(5, "succeeded"), Event(0, "deleted"),
        ]  # fmt: skip


class TestRetention:
    @pytest.fixture
    def retention(self) -> Retention:
        return Retention(worker_lease_s=60, events_ttl_s=1, events_max=3)

    def test_a_log_is_kept_for_a_while_and_the_record_for_longer(self, drive: Driver):
        ref = drive.running()
        end(drive, ref, "a", "b")
        time.sleep(1.1)
        with pytest.raises(StreamGoneError):
            events(drive, ref, 1)
        assert events(drive, ref, 4) == [(5, "succeeded", "")]

    def test_a_log_is_not_kept_for_longer_than_its_record(self, drive: Driver, redis_like):
        ref = drive.running(result_ttl_s=1)
        end(drive, ref, "a")
        log = logs(drive, redis_like)[0]
        assert 0 < redis_like.pttl(log) <= 1000
        time.sleep(1.1)
        with pytest.raises(GoneError):
            drive.store.log(ref, 0, WHOLE)

    def test_a_log_has_its_bound(self, drive: Driver):
        ref = drive.running()
        say(drive, ref, *"abcde")
        with pytest.raises(StreamGoneError):
            events(drive, ref, 3)
        assert events(drive, ref, 4) == [(5, "0", "c"), (6, "0", "d"), (7, "0", "e")]


def logs(drive: Driver, redis_like) -> list[str]:
    """The keys of all logs."""
    return redis_like.keys(f"{drive.store._prefix}log:*")


@pytest.fixture
def redis_like(drive: Driver):
    """The server behind the store, to look inside."""
    return drive.store._client
