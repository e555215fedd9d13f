"""The stream's route and its hub, over a store in memory: cursors, refusals, readers that do not read."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from api.streaming import hub as hub_module
from api.streaming.hub import Hub, Manners, Opening
from api.streaming.places import Places
from shared.errors import StoreUnavailableError
from shared.job import Choice, JobRef, JobStatus, Outcome
from shared.store.events import Said
from tests.api.house import House, build, error_of
from tests.servers import later, until
from tests.streams.client import Sse, Watcher, parse


@pytest.fixture(autouse=True)
def no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found only by looking every few seconds is not found in time here."""
    monkeypatch.setattr(hub_module, "LOOK_S", 60)


def say(house: House, ref: JobRef, *texts: str, since: int = 0, attempt: int = 1) -> None:
    said = Said(ref, attempt, since, tuple(("0", text) for text in texts))
    assert [told.count for told in house.store.progress("w1", [said])] == [since + len(texts)]


def finish(
    house: House, ref: JobRef, text: str, *, said: tuple[str, ...] = (), since: int = 0, attempt: int = 1
) -> None:
    rest = Said(ref, attempt, since, tuple(("0", part) for part in said))
    outcome = Outcome(JobStatus.SUCCEEDED, (Choice(0, text, "stop"),))
    assert house.store.finish(ref, "w1", attempt, outcome, rest)[0] == "accepted"


def stream(house: House, job_id: str, query: str = "", **headers: str) -> list[Sse]:
    """All events, to the end of the response."""
    response = house.call("GET", f"/api/jobs/{job_id}/stream{query}", headers=headers)
    assert response.status_code == 200, response.text
    text = response.data.decode()
    assert text.startswith("retry: 1000\n\n")
    return parse(text)


@contextmanager
def watching(house: House, job_id: str, watcher: Watcher) -> Iterator[Watcher]:
    """Watch from another thread; afterwards it has ended."""
    thread = threading.Thread(target=lambda: watcher.see(stream(house, job_id, f"?starting_after={watcher.cursor}")))
    thread.start()
    until(lambda: house.hub._jobs, 5, every_s=0.01)
    time.sleep(0.1)
    yield watcher
    thread.join(10)
    assert not thread.is_alive()


def test_headers_and_links(house: House) -> None:
    job_id = house.submit()
    house.run(job_id)
    response = house.call("GET", f"/api/jobs/{job_id}/stream")
    assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-cache"
    assert response.headers["X-Accel-Buffering"] == "no"
    assert response.headers["X-Request-Id"]
    assert "Content-Length" not in response.headers
    assert response.data
    assert house.call("GET", f"/api/jobs/{job_id}").json["urls"]["stream"] == f"/api/jobs/{job_id}/stream"
    assert house.call("HEAD", f"/api/jobs/{job_id}/stream").status_code == 200
    until(lambda: house.hub.open == 0, 3)


def test_a_job_is_watched_from_its_line_to_its_end(house: House) -> None:
    job_id = house.submit("hello")
    with watching(house, job_id, Watcher()) as watcher:
        ref = house.claim(job_id)
        say(house, ref, "你", "好\n")
        time.sleep(0.1)
        say(house, ref, "🙂", since=2)
        finish(house, ref, "你好\n🙂!", said=("!",), since=3)
    assert watcher.require_whole() == house.call("GET", f"/api/jobs/{job_id}").json
    assert watcher.names == ["queued", "started", "output", "output", "output", "output", "succeeded"]
    assert stream(house, job_id)[0].data == {"queue_position": None, "eta_seconds": None}


def test_the_first_event_says_where_a_job_waits(house: House) -> None:
    ids = [house.submit() for _ in range(2)]
    with watching(house, ids[1], Watcher()) as watcher:
        house.call("POST", f"/api/jobs/{ids[1]}/cancel")
    assert watcher.names == ["queued", "canceled"]
    job_id = house.submit()
    with later(0.2, house.call, "POST", f"/api/jobs/{job_id}/cancel"):
        assert stream(house, job_id)[0].data["queue_position"] == 2


@pytest.mark.parametrize("cursor", ["", "x", "-1", "1.0", "+1", "１", "0x1", "1e3", "9" * 16, "5", "999999999999999"])
def test_a_cursor_that_is_none_of_this_jobs(house: House, cursor: str) -> None:
    job_id = house.submit()
    house.run(job_id)  # has events 1 to 3
    for response, param in (
        (house.call("GET", f"/api/jobs/{job_id}/stream", query_string={"starting_after": cursor}), "starting_after"),
        (house.call("GET", f"/api/jobs/{job_id}/stream", headers={"Last-Event-ID": cursor.encode().decode("latin-1")}),
         "Last-Event-ID"),
    ):  # fmt: skip
        error = error_of(response)
        assert (response.status_code, error["code"], error["param"]) == (400, "invalid_cursor", param)
    assert house.hub.open == 0


def test_the_header_comes_before_the_query(house: House) -> None:
    job_id = house.submit()
    house.run(job_id)
    assert [event.id for event in stream(house, job_id, "?starting_after=0", **{"Last-Event-ID": "2"})] == [3]
    assert house.call("GET", f"/api/jobs/{job_id}/stream?starting_after=3").status_code == 204
    until(lambda: house.hub.open == 0, 3)


def test_other_refusals(house: House) -> None:
    job_id = house.submit(result_ttl_s=1)
    other = house.call("GET", f"/api/jobs/{job_id}/stream", key="rival")
    assert (other.status_code, error_of(other)["code"]) == (404, "not_found")
    assert house.call("GET", f"/api/jobs/{job_id}/stream", key=None).status_code == 401
    assert house.call("GET", f"/api/jobs/{job_id}/stream?after=1").status_code == 422
    house.run(job_id)
    time.sleep(1.1)
    gone = house.call("GET", f"/api/jobs/{job_id}/stream")
    assert (gone.status_code, error_of(gone)["code"]) == (410, "gone")
    assert house.hub.open == 0


def test_a_log_that_is_not_kept_any_more() -> None:
    house = build(events_max=3)
    ref = house.claim(house.submit())
    say(house, ref, *"abcd")
    gone = house.call("GET", f"/api/jobs/{ref.id}/stream?starting_after=1")
    assert (gone.status_code, error_of(gone)["code"]) == (410, "stream_gone")
    finish(house, ref, "abcd")
    assert [event.event for event in stream(house, ref.id, "?starting_after=3")] == ["output"] * 3 + ["succeeded"]


def test_a_retry_goes_on_in_the_same_stream_of_numbers(house: House) -> None:
    job_id = house.submit()
    watcher = Watcher()
    house.end(job_id, Outcome(JobStatus.FAILED))
    watcher.see(stream(house, job_id))
    assert watcher.names[-1] == "failed"
    house.call("POST", f"/api/jobs/{job_id}/retry")
    assert house.store.claim(JobRef("shop", job_id), "w1", "again") is not None
    say(house, JobRef("shop", job_id), "x", attempt=2)
    finish(house, JobRef("shop", job_id), "x", attempt=2)
    rest = Watcher(watcher.cursor)
    rest.see(stream(house, job_id, f"?starting_after={watcher.cursor}"))
    assert rest.names == ["queued", "restarted", "output", "succeeded"]
    rest.require_whole()
    older = Watcher(1)
    older.see(stream(house, job_id, "?starting_after=1"))
    assert older.names == rest.names


def test_a_deleted_job_ends_its_streams(house: House) -> None:
    ref = house.claim(house.submit())
    with watching(house, ref.id, Watcher()) as watcher:
        house.store.delete(ref)
    assert watcher.error == "not_found"


def test_places_per_key_and_in_all() -> None:
    house = build(max_streams_per_key=2, api_max_streams=3)
    job_ids = [house.submit() for _ in range(3)]
    threads = [threading.Thread(target=stream, args=(house, job_ids[0])) for _ in range(2)]
    for thread in threads:
        thread.start()
    until(lambda: house.hub.open == 2, 5)
    refused = house.call("GET", f"/api/jobs/{job_ids[1]}/stream")
    assert (refused.status_code, error_of(refused)["code"]) == (429, "stream_limit")
    assert refused.headers["Retry-After"]
    third = house.hub.take_place("another key")
    full = house.call("GET", f"/api/jobs/{job_ids[1]}/stream", key="rival")
    assert (full.status_code, error_of(full)["code"]) == (503, "streams_full")
    third.give_back()
    third.give_back()
    house.run(job_ids[0])
    for thread in threads:
        thread.join(5)
    until(lambda: house.hub.open == 0, 5)


def test_a_drain_tells_the_clients_and_takes_no_more(house: House) -> None:
    job_id = house.submit()
    with watching(house, job_id, Watcher()) as watcher:
        house.hub.drain()
    assert (watcher.names, watcher.error) == (["queued"], "server_draining")
    late = house.call("GET", f"/api/jobs/{job_id}/stream")
    assert (late.status_code, error_of(late)["code"]) == (503, "server_draining")


def test_a_stream_is_not_open_for_ever() -> None:
    house = build(stream_max_s=0.2)
    job_id = house.submit()
    watcher = Watcher()
    watcher.see(stream(house, job_id))
    assert (watcher.names, watcher.error) == (["queued"], "stream_timeout")


def test_events_that_nobody_heard_of_are_found(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Published messages are lost, all of them: a stream still ends, only later."""
    monkeypatch.setattr(hub_module, "LOOK_S", 0.2)
    monkeypatch.setattr(hub_module.Hub, "_heard", lambda *_: None)
    job_id = house.submit()
    with watching(house, job_id, Watcher()) as watcher:
        ref = house.claim(job_id)
        say(house, ref, "a")
        finish(house, ref, "ab", said=("b",), since=1)
    watcher.require_whole()


def test_a_look_that_fails_is_made_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "RETRY_S", 0.05)
    job_id = house.submit()
    logs, away = house.store.log, threading.Event()

    def log(*arguments):
        if away.is_set():
            raise StoreUnavailableError("away")
        return logs(*arguments)

    monkeypatch.setattr(house.store, "log", log)
    with watching(house, job_id, Watcher()) as watcher:
        away.set()
        ref = house.claim(job_id)
        finish(house, ref, "")
        time.sleep(0.3)
        away.clear()
    watcher.require_whole()


class TestOutlets:
    """The hub with sockets whose other end the test holds."""

    @pytest.fixture
    def house(self) -> House:
        return build(stream_ping_s=0.2, stream_stall_s=0.5)

    @contextmanager
    def opened(self, house: House, ref: JobRef) -> Iterator[socket.socket]:
        ours, hubs = socket.socketpair()
        with ours:
            ours.settimeout(10)
            house.hub.adopt(hubs, Opening(ref, 1, house.hub.take_place("k"), b"begin\n\n", complete=False))
            assert ours.recv(7) == b"begin\n\n"
            yield ours

    def test_who_hangs_up_is_noticed_at_once(self, house: House) -> None:
        ref = JobRef("shop", house.submit())
        with self.opened(house, ref):
            assert house.hub.open == 1
        until(lambda: house.hub.open == 0, 0.15, every_s=0.01)
        until(lambda: not house.hub._jobs, 1)

    def test_silence_is_broken_by_pings(self, house: House) -> None:
        with self.opened(house, JobRef("shop", house.submit())) as ours:
            began = time.monotonic()
            assert ours.recv(8) == b": ping\n\n"
            assert ours.recv(8) == b": ping\n\n"
            assert 0.3 < time.monotonic() - began < 2

    def test_who_does_not_read_costs_no_memory_and_is_dropped(self, house: House) -> None:
        ref = house.claim(house.submit())
        with self.opened(house, ref) as ours:
            for number in range(60):
                say(house, ref, "x" * 20_000, since=number)
            until(lambda: any(outlet.stalled_since for outlet in house.hub._outlets), 2)
            outlet = next(iter(house.hub._outlets))
            assert outlet._transport.get_write_buffer_size() < 200_000
            time.sleep(1)
            received = b""
            while data := ours.recv(65_536):
                received += data
        watcher = Watcher(1)
        watcher.see(parse(received.decode()))
        assert watcher.error == "slow_reader"
        assert len(received) < 600_000
        until(lambda: house.hub.open == 0, 1)

    def test_who_never_reads_is_hung_up_on(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("api.streaming.outlet.FAREWELL_S", 0.2)
        ref = house.claim(house.submit())
        with self.opened(house, ref):
            for number in range(60):
                say(house, ref, "x" * 20_000, since=number)
            until(lambda: house.hub.open == 0, 5)

    def test_who_reads_slowly_gets_everything(self, house: House) -> None:
        ref = house.claim(house.submit())
        parts = tuple(f"{number}" + "x" * 20_000 for number in range(60))
        received = b""
        with self.opened(house, ref) as ours:
            say(house, ref, *parts[:30])
            say(house, ref, *parts[30:], since=30)
            finish(house, ref, "".join(parts))
            while data := ours.recv(16_384):
                received += data
                time.sleep(0.005)
        watcher = Watcher(1)
        watcher.see(parse(received.decode()))
        watcher.require_whole()

    def test_who_sends_without_end_is_hung_up_on(self, house: House) -> None:
        with self.opened(house, JobRef("shop", house.submit())) as ours:
            with contextlib.suppress(OSError):
                ours.sendall(b"x" * 200_000)
            until(lambda: house.hub.open == 0, 2)

    def test_many_watch_one_job(self, house: House) -> None:
        ref = house.claim(house.submit())
        watchers = [Watcher() for _ in range(5)]
        threads = [threading.Thread(target=lambda w=w: w.see(stream(house, ref.id))) for w in watchers]
        for thread in threads:
            thread.start()
        until(lambda: house.hub.open == 5, 5)
        say(house, ref, "a")
        finish(house, ref, "ab", said=("b",), since=1)
        for thread in threads:
            thread.join(5)
        for watcher in watchers:
            watcher.require_whole()
        assert json.dumps(watchers[0].end) == json.dumps(watchers[-1].end)


def test_a_hub_without_a_stream_has_nothing_to_do() -> None:
    hub = Hub(None, None, "", Places(1, 1), Manners())  # type: ignore[arg-type]
    hub.drain()
    assert hub.open == 0
