"""``client.stream``: each event once, in order, over connections that break anywhere."""

from __future__ import annotations

import random
import threading
import time
from contextlib import closing

import pytest

from smarttextgen import (
    APIError,
    AuthenticationError,
    Client,
    ConnectionFailedError,
    Ended,
    GoneError,
    InvalidRequestError,
    NotFoundError,
    Output,
    Queued,
    RateLimitedError,
    Restarted,
    ServerError,
    Started,
    Transcript,
    UnavailableError,
    WaitTimeoutError,
    streaming,
)
from tests.smarttextgen.fake_api import KEY, Failure, FakeApi, eventually
from tests.smarttextgen.fake_streams import Cut

# Line separators that only some parsers take for ends of lines, characters of 2 to 4 bytes, and what JSON escapes.
TEXT = 'One line\u2028another\u2029third\x85 next\x0b\x0c\x1c… 我的包裹還沒到。 🧦 "quoted" \\ \t\r\n end data: x\n\n'


def a_log(api: FakeApi, job_id: str = "job_1", text: str = TEXT, size: int = 3) -> None:
    log = api.streams.log(job_id)
    log.add("queued", queue_position=2, eta_seconds=1.5)
    log.add("started", attempt=1)
    for start in range(0, len(text), size):
        log.add("output", index=0, delta=text[start : start + size])
    log.add("succeeded", id=job_id, status="succeeded", output=text)


def test_events_are_records(api: FakeApi, client: Client) -> None:
    a_log(api, text="ab", size=1)
    events = list(client.stream("job_1"))
    assert events[:4] == [Queued(1, 2, 1.5), Started(2, 1), Output(3, 0, "a"), Output(4, 0, "b")]
    assert isinstance(events[4], Ended)
    assert (events[4].id, events[4].job.output, events[4].job.succeeded, len(events)) == (5, "ab", True, 5)
    request = api.requests("GET", "/api/jobs/job_1/stream")[0]
    assert request.headers["accept"] == "text/event-stream"
    assert "last-event-id" not in request.headers


def test_events_come_as_they_happen(api: FakeApi, client: Client) -> None:
    log = api.streams.log("job_1")
    log.add("queued")
    events = client.stream("job_1")
    assert isinstance(next(events), Queued)
    threading.Timer(0.2, lambda: log.add("output", index=0, delta="a")).start()
    assert next(events) == Output(2, 0, "a")
    events.close()


def test_a_job_may_be_given_itself(api: FakeApi, client: Client) -> None:
    job = client.submit("hello")
    a_log(api, job.id)
    assert Transcript.of(client.stream(job)).text() == TEXT


def test_starting_after(api: FakeApi, client: Client) -> None:
    a_log(api, text="abc", size=1)
    assert [event.id for event in client.stream("job_1", starting_after=3)] == [4, 5, 6]
    assert api.streams.cursors == [3]
    assert list(client.stream("job_1", starting_after=6)) == []
    with pytest.raises(InvalidRequestError):
        list(client.stream("job_1", starting_after=7))


def test_a_stream_cut_anywhere_a_hundred_times_is_whole(api: FakeApi, client: Client) -> None:
    """Crashes and clean ends, in the middle of lines, characters and chunks, or after nothing."""
    chance = random.Random(4)
    text = TEXT * 20
    a_log(api, text=text, size=7)
    api.streams.cuts = [Cut(chance.randrange(0, 400), chance.random() < 0.5) for _ in range(100)]
    events = list(client.stream("job_1"))
    assert not api.streams.cuts
    assert [event.id for event in events] == list(range(1, len(api.streams.logs["job_1"].events) + 1))
    transcript = Transcript.of(events)
    assert transcript.job is not None
    assert transcript.text() == transcript.job.output == text
    assert sum(isinstance(event, Ended) for event in events) == 1


@pytest.mark.parametrize("clean", [False, True], ids=["crash", "clean_end"])
def test_cut_at_every_byte_of_a_short_stream(api: FakeApi, client: Client, clean: bool) -> None:
    a_log(api, text="我🧦\r\n", size=1)
    size = 0
    while not size or len(api.streams.cursors) == 2:  # once the cut is behind the end, one connection is enough
        api.streams.cuts, api.streams.cursors = [Cut(size, clean)], []
        assert Transcript.of(client.stream("job_1")).text() == "我🧦\r\n"
        size += 1
    assert size > 300


def test_a_service_that_repeats_itself(api: FakeApi, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not honour the cursor: nothing is yielded twice all the same."""
    a_log(api, text="abc", size=1)
    opened = api.streams.open
    monkeypatch.setattr(api.streams, "open", lambda job_id, headers, query: opened(job_id, {}, {}))
    api.streams.cuts = [Cut(250), Cut(300)]
    assert [event.id for event in client.stream("job_1")] == [1, 2, 3, 4, 5, 6]


def test_a_restart_drops_the_text(api: FakeApi, client: Client) -> None:
    log = api.streams.log("job_1")
    log.add("started", attempt=1)
    log.add("output", index=0, delta="lost")
    log.add("output", index=1, delta="lost too")
    log.add("restarted", attempt=2)
    log.add("output", index=0, delta="kept")
    log.add("failed", id="job_1", status="failed", error={"code": "x", "message": "y"})
    events = list(client.stream("job_1"))
    assert Restarted(4, 2) in events
    transcript = Transcript.of(events)
    assert (transcript.text(), transcript.text(1)) == ("kept", "")
    assert transcript.job is not None
    assert transcript.job.error is not None


@pytest.mark.parametrize("end", ["succeeded", "failed", "canceled", "expired"])
def test_the_four_ends(api: FakeApi, client: Client, end: str) -> None:
    api.streams.log("job_1").add(end, id="job_1", status=end)
    (event,) = client.stream("job_1")
    assert isinstance(event, Ended)
    assert event.job.status == end


def test_kinds_of_tomorrow_are_skipped(api: FakeApi, client: Client) -> None:
    log = api.streams.log("job_1")
    log.add("thought", words="hm")
    log.add("started", attempt=1, a_field_of_tomorrow=1)
    log.add("succeeded", id="job_1", status="succeeded")
    assert [event.id for event in client.stream("job_1")] == [2, 3]


# --- errors


@pytest.mark.parametrize("code", ["slow_reader", "server_draining", "a_code_of_tomorrow"])
def test_errors_that_pass_are_reasons_to_connect_again(api: FakeApi, client: Client, code: str) -> None:
    a_log(api, text="abcdef", size=1)
    api.streams.errors = [(2, code), (0, code), (0, code), (1, code)]
    assert Transcript.of(client.stream("job_1")).text() == "abcdef"
    assert api.streams.cursors == [None, 2, 2, 2, 3]


@pytest.mark.parametrize(("code", "kind"), [("not_found", NotFoundError), ("stream_gone", GoneError)])
def test_errors_that_do_not_pass(api: FakeApi, client: Client, code: str, kind: type[APIError]) -> None:
    a_log(api, text="abc", size=1)
    api.streams.errors = [(3, code)]
    events = client.stream("job_1")
    assert [next(events).id for _ in range(3)] == [1, 2, 3]
    with pytest.raises(kind) as raised:
        next(events)
    assert raised.value.code == code


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (Failure(401), AuthenticationError),
        (Failure(404), NotFoundError),
        (Failure(410), GoneError),
        (Failure(400), InvalidRequestError),
        (Failure(200, body={"what": "?"}), APIError),
    ],
    ids=lambda value: str(getattr(value, "status", "")),
)
@pytest.mark.parametrize("later", [False, True], ids=["at_once", "at_a_reconnect"])
def test_answers_that_will_not_change(
    api: FakeApi, client: Client, failure: Failure, kind: type[APIError], later: bool
) -> None:
    a_log(api)
    if later:
        api.streams.cuts = [Cut(300)]
        events = client.stream("job_1")
        next(events)
    else:
        events = client.stream("job_1")
    api.fail_next(failure)
    with pytest.raises(kind):
        list(events)
    assert len(api.requests("GET", "/api/jobs/job_1/stream")) == 1 + later


def test_no_such_job(client: Client) -> None:
    with pytest.raises(NotFoundError):
        next(client.stream("job_9"))


def test_the_first_connection_is_tried_as_often_as_any_request(api: FakeApi) -> None:
    a_log(api)
    with Client(api.url, KEY, max_retries=2) as client:
        api.fail_next(Failure(503), Failure(0))
        assert Transcript.of(client.stream("job_1")).text() == TEXT
        for failure, kind in ((500, ServerError), (503, UnavailableError), (0, ConnectionFailedError)):
            seen = len(api.seen)
            api.fail_next(*[Failure(failure)] * 3)
            with pytest.raises(kind):
                next(client.stream("job_1"))
            assert len(api.seen) == seen + 3


def test_a_long_outage_is_lived_through(api: FakeApi) -> None:
    a_log(api)
    api.streams.cuts = [Cut(200)]
    with Client(api.url, KEY, max_retries=0) as client:
        events = client.stream("job_1")
        first = next(events)
        api.fail_next(*[Failure(status) for status in (0, 500, 502, 503, 429, 504) for _ in range(3)])
        assert Transcript.of([first, *events]).text() == TEXT
    assert not api.failures


def test_a_limit_on_streams_is_told(api: FakeApi) -> None:
    a_log(api)
    with Client(api.url, KEY, max_retries=1) as client:
        for failures in ([Failure(429, {"Retry-After": "0"})] * 2, [Failure(429, {"x-should-retry": "false"})]):
            api.fail_next(*failures)
            with pytest.raises(RateLimitedError):
                next(client.stream("job_1"))
            assert not api.failures


# --- time


def test_a_dead_connection_is_left(api: FakeApi, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """No word for longer than pings are apart: another connection is made."""
    monkeypatch.setattr(streaming, "LONGEST_SILENCE_S", 0.3)
    api.streams.ping = False
    log = api.streams.log("job_1")
    log.add("queued")
    events = client.stream("job_1")
    next(events)
    threading.Timer(1.0, lambda: log.add("succeeded", id="job_1", status="succeeded")).start()
    assert isinstance(next(events), Ended)
    assert len(api.streams.cursors) >= 3


@pytest.mark.parametrize("ping", [True, False], ids=["pings", "silence"])
def test_a_timeout(api: FakeApi, client: Client, ping: bool) -> None:
    api.streams.ping = ping
    api.streams.log("job_1").add("queued")
    started = time.monotonic()
    with pytest.raises(WaitTimeoutError, match="job_1"):
        list(client.stream("job_1", timeout=0.5))
    assert 0.4 <= time.monotonic() - started < 5


def test_a_timeout_while_the_service_is_away(api: FakeApi, client: Client) -> None:
    api.streams.log("job_1").add("queued")
    api.streams.cuts = [Cut(100)]
    events = client.stream("job_1", timeout=0.5)
    next(events)
    api.fail_next(*[Failure(503)] * 10_000)
    with pytest.raises(WaitTimeoutError):
        next(events)


def test_a_stream_that_is_left_closes_its_connection(api: FakeApi, client: Client) -> None:
    log = api.streams.log("job_1")
    log.add("queued")
    with closing(client.stream("job_1")) as events:
        next(events)
    before = threading.active_count()
    assert eventually(lambda: threading.active_count() < before)  # the one that served it


def test_many_streams_at_once_on_one_client(api: FakeApi, client: Client) -> None:
    texts: dict[str, str] = {}

    def follow(job_id: str) -> None:
        texts[job_id] = Transcript.of(client.stream(job_id)).text()

    threads = [threading.Thread(target=follow, args=(f"job_{number}",)) for number in range(20)]
    for number, thread in enumerate(threads):
        a_log(api, f"job_{number}", f"{TEXT}{number}")
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {f"job_{number}": f"{TEXT}{number}" for number in range(20)}
