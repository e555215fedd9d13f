"""Slow senders are hung up on, the others are left alone."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from api import deadlines
from api.deadlines import Watcher, reading


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_a_blocked_read_ends_with_its_deadline(pair) -> None:
    watcher = Watcher(crowd=10)
    started = time.monotonic()
    with watcher.reading(pair[0], 0.3) as phase:
        assert pair[0].recv(10) == b""
    assert phase.cut
    assert 0.25 < time.monotonic() - started < 2


def test_a_phase_that_is_over_is_left_alone(pair) -> None:
    watcher = Watcher(crowd=10)
    with watcher.reading(pair[0], 0.1) as phase:
        pass
    time.sleep(0.6)
    assert not phase.cut
    pair[1].sendall(b"later")
    assert pair[0].recv(10) == b"later"


def test_in_a_crowd_the_oldest_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "CROWDED_PATIENCE_S", 0.05)
    watcher = Watcher(crowd=2)
    watcher._started = True  # swept by hand
    pairs = [socket.socketpair() for _ in range(4)]
    for ours, _ in pairs:
        watcher.begin(ours, 60)
    phases = list(watcher._phases.values())
    watcher.sweep()
    assert [phase.cut for phase in phases] == [False] * 4, "patience first"
    time.sleep(0.1)
    watcher.sweep()
    assert [phase.cut for phase in phases] == [True, True, False, False]
    for sock in (sock for pair in pairs for sock in pair):
        sock.close()


def test_without_a_socket_nothing_is_slow() -> None:
    with reading(None, 0.0) as phase:
        assert not phase.cut


def test_a_connection_lingers_until_the_client_hangs_up(pair) -> None:
    ours, theirs = pair
    watcher = Watcher(crowd=10)
    watcher._started = True
    started = time.monotonic()
    theirs.sendall(b"unread")
    watcher.linger(ours)
    assert time.monotonic() - started < 0.1, "nobody waits"
    assert theirs.recv(10) == b"", "the client sees the end at once"
    watcher.sweep()
    assert ours.fileno() != -1
    theirs.close()
    watcher.sweep()
    assert ours.fileno() == -1


def test_a_client_that_never_hangs_up_is_left(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "LINGER_S", 0.1)
    watcher = Watcher(crowd=10)
    watcher.linger(pair[0])
    time.sleep(0.8)
    assert pair[0].fileno() == -1
    assert any(thread.name == "read-deadlines" for thread in threading.enumerate())
