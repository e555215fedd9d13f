"""The room where requests wait for the end of jobs."""

from __future__ import annotations

import threading
import time

from api.waiting import WaitingRoom
from shared.job import JobRef

A, B = JobRef("shop", "a"), JobRef("shop", "b")


def test_an_end_before_the_wait_is_not_missed() -> None:
    room = WaitingRoom(2)
    with room.expect([A]) as expectation:
        room.tell(A)
        assert expectation.wait(0)


def test_several_wait_for_one_job_and_nobody_else_is_woken() -> None:
    room = WaitingRoom(3)
    with room.expect([A]) as one, room.expect([A]) as two, room.expect([B]) as other:
        room.tell(A)
        assert (one.wait(0), two.wait(0), other.wait(0)) == (True, True, False)
    assert (room.taken, room._waiting) == (0, {})


def test_a_batch_waits_for_all_of_it() -> None:
    room = WaitingRoom(1)
    with room.expect([A, B]) as expectation:
        room.tell(A)
        room.tell(A)
        assert not expectation.wait(0)
        room.tell(B)
        assert expectation.wait(0)


def test_places_are_limited_and_given_back() -> None:
    room = WaitingRoom(1)
    with room.expect([A]) as first, room.expect([A]) as second, room.expect([A], wanted=False) as third:
        assert (first.admitted, second.admitted, third.admitted) == (True, False, False)
        started = time.monotonic()
        assert not second.wait(5)
        assert time.monotonic() - started < 0.5
    with room.expect([A]) as again:
        assert again.admitted


def test_everybody_looks_after_a_gap_and_may_wait_on() -> None:
    room = WaitingRoom(2)
    with room.expect([A]) as expectation:
        room.tell_all()
        assert expectation.wait(0)
        assert not expectation.wait(0.01)
        room.tell(A)
        assert expectation.wait(0)


def test_a_drain_ends_every_wait() -> None:
    room = WaitingRoom(2)
    with room.expect([A]) as expectation:
        threading.Timer(0.1, room.drain).start()
        started = time.monotonic()
        assert expectation.wait(10)
        assert time.monotonic() - started < 5
        assert not expectation.wait(10)
    with room.expect([A]) as late:
        assert not late.admitted
