"""Watching a job through its stream: growing text, lost connections, a lost worker, and where there is no stream."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from tests.console.fake_streams import FakeStreams, event
from tests.console.stack import Stack
from tests.servers import until

RETRY = "retry: 50\n\n"


@pytest.fixture
def streams() -> Iterator[FakeStreams]:
    with FakeStreams().serving() as running:
        yield running


@pytest.fixture
def watch(visit: Callable, stack: Stack, streams: FakeStreams) -> Callable:
    """Asks in the playground with the streams of the test in place of the server's; ``script(job)`` makes the connections."""

    def ask(script: Callable[[dict], list]) -> tuple:
        tab = visit()
        tab.besides.append(streams.url)
        tab.enter()

        def instead(route) -> None:
            job_id = route.request.url.split("/")[-2]
            if not streams.asked:
                job = stack.api.call("GET", f"/api/jobs/{job_id}?wait=10").json
                streams.connections = script(job)
            route.continue_(url=streams.url)

        tab.page.route("**/api/jobs/*/stream*", instead)
        return tab, tab.ask("hello", max_length="30")

    return ask


def _output(number: int, delta: str, index: int = 0) -> str:
    return event(number, "output", {"index": index, "delta": delta})


def _text(live) -> str:
    return live.locator(".output .text").first.inner_text()


def _shows(live, text: str) -> None:
    live.locator(".output .text").first.filter(has_text=text).wait_for()
    assert _text(live).strip() == text


def test_a_real_stream(visit: Callable) -> None:
    tab = visit()
    tab.enter()
    live = tab.ask("A long answer, please.", max_length="300", temperature="0.9")
    live.and_(tab.page.locator("[data-via=stream][data-status=running]")).wait_for()
    lengths = []
    while live.get_attribute("data-status") == "running":
        lengths.append(len(_text(live)))
    live.and_(tab.page.locator("[data-via=stream][data-status=succeeded]")).wait_for()
    assert lengths == sorted(lengths)
    assert len({length for length in lengths if 0 < length < 300}) > 3, "it grew in steps"
    assert _text(live).startswith("A long answer, please.")


def _said(job: dict, text: str, status: str = "succeeded", **more) -> dict:
    """The job as if it had ended with this text."""
    return {
        **job,
        "status": status,
        "output": text,
        "choices": [{"index": 0, "text": text, "finish_reason": "stop"}],
        **more,
    }


def test_text_grows_as_it_comes(watch: Callable) -> None:
    gates = [threading.Event() for _ in range(5)]
    tab, live = watch(lambda job: [[
        RETRY, event(1, "queued", {"queue_position": 4, "eta_seconds": 2.5}), gates[0],
        event(2, "started", {"attempt": 1}), gates[1], _output(3, "One "), gates[2], ": ping\n\n", _output(4, "two "), gates[3],
        _output(5, "<b>three"), gates[4], event(6, "succeeded", _said(job, "One two <b>three")),
    ]])  # fmt: skip
    live.get_by_text("Number 4 in line, about 2.5 s to go").wait_for()
    gates[0].set()
    live.get_by_text("Writing.").wait_for()
    live.and_(tab.page.locator("[data-via=stream][data-status=running]")).wait_for()
    for gate, text in zip(gates[1:], ("One", "One two", "One two <b>three"), strict=False):
        gate.set()
        _shows(live, text)
        assert live.locator(".output").get_attribute("aria-busy") == "true"
    gates[4].set()
    live.and_(tab.page.locator("[data-status=succeeded]")).wait_for()
    assert _text(live) == "One two <b>three"
    assert live.locator(".output").get_attribute("aria-busy") == "false"
    until(
        lambda: live.locator("[role=log]").inner_text().replace("\n", "") == "One two <b>three", 10, what="read aloud"
    )


def test_a_cut_stream_goes_on_where_it_was(watch: Callable, streams: FakeStreams) -> None:
    gate = threading.Event()
    tab, live = watch(lambda job: [
        [RETRY, event(1, "queued", {"queue_position": None, "eta_seconds": None}), event(2, "started", {"attempt": 1}), _output(3, "Once ")],
        [RETRY, _output(4, "upon "), 'id: 5\nevent: output\ndata: {"index": 0, "del'],
        [event(None, "error", {"error": {"message": "x", "type": "x", "param": None, "code": "server_draining"}})],
        [RETRY, _output(5, "a time"), gate, event(6, "succeeded", job)],
    ])  # fmt: skip
    _shows(live, "Once upon a time")
    gate.set()
    live.and_(tab.page.locator("[data-status=succeeded]")).wait_for()
    assert streams.asked == [None, "3", "4", "4"]


def test_a_lost_worker_starts_the_text_over(watch: Callable) -> None:
    gates = [threading.Event() for _ in range(2)]
    tab, live = watch(lambda job: [[
        RETRY, event(1, "started", {"attempt": 1}), _output(2, "Half a sen"), gates[0],
        event(3, "restarted", {"attempt": 2}), _output(4, "Whole"), _output(5, "Other", 1), gates[1],
        event(6, "canceled", _said(job, "Whole", "canceled", attempt=2)),
    ]])  # fmt: skip
    _shows(live, "Half a sen")
    gates[0].set()
    _shows(live, "Whole")
    live.get_by_text("Its worker was lost, so it starts over.").wait_for()
    live.get_by_text("attempt 2").wait_for()
    assert live.locator(".output .text").all_inner_texts() == ["Whole", "Other"]
    gates[1].set()
    live.and_(tab.page.locator("[data-status=canceled]")).wait_for()
    assert _text(live) == "Whole"


@pytest.mark.parametrize("status", [404, 429])
def test_where_there_is_no_stream_it_asks_again_and_again(watch: Callable, streams: FakeStreams, status: int) -> None:
    tab, live = watch(lambda _job: [status])
    tab.expected = {status}
    live.and_(tab.page.locator("[data-via=poll][data-status=succeeded]")).wait_for()
    assert _text(live)
    assert len(streams.asked) == 1


def test_a_trimmed_stream_is_followed_by_asking(watch: Callable, streams: FakeStreams) -> None:
    error = {"error": {"message": "x", "type": "x", "param": None, "code": "stream_gone"}}
    tab, live = watch(
        lambda _job: [[RETRY, event(1, "started", {"attempt": 1}), _output(2, "Begun"), event(None, "error", error)]]
    )
    live.and_(tab.page.locator("[data-status=succeeded]")).wait_for()
    assert _text(live) != "Begun"
    assert len(streams.asked) == 1


def test_a_deleted_job_is_said_to_be_gone(watch: Callable) -> None:
    error = {"error": {"message": "x", "type": "x", "param": None, "code": "not_found"}}
    tab, _ = watch(lambda _job: [[RETRY, event(1, "started", {"attempt": 1}), event(None, "error", error)]])
    tab.page.get_by_text("This job does not exist any more.").wait_for()
