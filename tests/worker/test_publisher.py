"""What the engine says reaches the log, in time and once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from shared.errors import StoreUnavailableError
from shared.job import JobRef, JobStatus
from shared.store.memory import MemoryStore
from shared.store.protocol import Stop
from tests.servers import until
from tests.worker.conftest import make_runner, submit
from worker.engine.protocol import Delta, Engine
from worker.publisher import Publisher


class CountingStore(MemoryStore):
    """Keeps what it was told, and can be away or forgetful."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[float] = []
        self.away = False

    def progress(self, worker, said):
        if self.away:
            raise StoreUnavailableError("away")
        self.calls.append(time.monotonic())
        return super().progress(worker, said)


@pytest.fixture
def store() -> CountingStore:
    return CountingStore()


@pytest.fixture
def publisher(store: CountingStore) -> Iterator[Publisher]:
    publisher = Publisher(store, "w1", flush_s=0.2, unwatched_s=0.6, joining_s=0)
    publisher.start()
    yield publisher
    publisher.stop()


def running(store: MemoryStore, engine: Engine) -> JobRef:
    ref = submit(store)
    make_runner(store, engine)  # its worker has a lease
    assert store.claim(ref, "w1", ref.id) is not None
    return ref


def said(store: MemoryStore, ref: JobRef) -> list[tuple[str, str]]:
    return [(event.kind, event.value) for event in store.log(ref, 2, 1000).entries]


@contextmanager
def follower(store: CountingStore, ref: JobRef) -> Iterator[None]:
    """Somebody who reads the job's stream."""
    with store.client.pubsub() as heard:
        heard.subscribe(f"{store.prefix}events:{ref}")
        assert heard.get_message(timeout=1)
        yield


def test_the_first_words_go_at_once_and_the_rest_together(store: CountingStore, echo: Engine, publisher: Publisher):
    ref = running(store, echo)
    with follower(store, ref):
        check_the_rest_comes_after(0.15, 0.4, store, ref, publisher)


def test_the_rest_takes_its_time_where_nobody_follows(store: CountingStore, echo: Engine, publisher: Publisher):
    check_the_rest_comes_after(0.5, 0.9, store, running(store, echo), publisher)


def check_the_rest_comes_after(
    least_s: float, most_s: float, store: CountingStore, ref: JobRef, publisher: Publisher
) -> None:
    speech = publisher.open(ref, 1)
    speech.say(Delta(0, "a", 1))
    until(lambda: store.calls, 0.15, every_s=0.005)
    for text in "bcdef":
        speech.say(Delta(0, text, 1))
        time.sleep(0.01)
    until(lambda: len(store.calls) == 2, 1)
    assert least_s < store.calls[1] - store.calls[0] < most_s
    until(lambda: said(store, ref) == [("0", "a"), ("0", "bcdef")], 1)
    assert speech.close() is None


def test_who_comes_later_hears_the_rest_soon(store: CountingStore, echo: Engine, publisher: Publisher):
    refs = [running(store, echo) for _ in range(2)]
    speeches = [publisher.open(ref, 1) for ref in refs]
    for speech in speeches:
        speech.say(Delta(0, "a", 1))
    until(lambda: all(said(store, ref) for ref in refs), 1)
    with follower(store, refs[0]):
        for (
            text
        ) in "bc":  # the one goes when the time of the unwatched is come, and shows that they are not; the other soon
            before = len(said(store, refs[0]))
            for speech in speeches:
                speech.say(Delta(0, text, 1))
            began = time.monotonic()
            until(lambda: len(said(store, refs[0])) > before, 1, every_s=0.005)  # noqa: B023  # called at once
        assert time.monotonic() - began < 0.4
        assert said(store, refs[1]) == [("0", "a"), ("0", "b")], "nobody follows this one"
        until(lambda: said(store, refs[1])[2:] == [("0", "c")], 1)


def test_somebody_may_be_about_to_follow(store: CountingStore, echo: Engine) -> None:
    ref = running(store, echo)
    publisher = Publisher(store, "w1", flush_s=0.1, unwatched_s=5, joining_s=0.5)
    publisher.start()
    try:
        speech, began = publisher.open(ref, 1), time.monotonic()
        while time.monotonic() < began + 0.45:
            speech.say(Delta(0, "a", 1))
            time.sleep(0.02)
        assert len(said(store, ref)) >= 3, "told as to a follower while a client may still open the stream"
        time.sleep(0.4)
        told = len(said(store, ref))
        speech.say(Delta(0, "z", 1))
        time.sleep(0.4)
        assert len(said(store, ref)) == told, "nobody came"
    finally:
        publisher.stop()


def test_another_jobs_first_words_do_not_wait_for_the_others(store: CountingStore, echo: Engine, publisher: Publisher):
    refs = [running(store, echo) for _ in range(2)]
    publisher.open(refs[0], 1).say(Delta(0, "a", 1))
    until(lambda: store.calls, 1, every_s=0.005)
    began = time.monotonic()
    publisher.open(refs[1], 1).say(Delta(0, "b", 1))
    until(lambda: said(store, refs[1]) == [("0", "b")], 1, every_s=0.005)
    assert time.monotonic() - began < 0.15


def test_completions_are_kept_apart(store: CountingStore, echo: Engine):
    ref = running(store, echo)
    speech = Publisher(store, "w1", flush_s=1, unwatched_s=1).open(ref, 1)
    for index, text in ((0, "a"), (1, "x"), (0, "b"), (1, ""), (1, "y")):
        speech.say(Delta(index, text, 1))
    rest = speech.close()
    assert rest is not None
    assert (rest.since, rest.entries) == (0, (("0", "ab"), ("1", "xy")))


def test_what_redis_did_not_take_comes_later_and_once(store: CountingStore, echo: Engine, publisher: Publisher):
    ref = running(store, echo)
    speech = publisher.open(ref, 1)
    speech.say(Delta(0, "a", 1))
    until(lambda: said(store, ref), 1)
    store.away = True
    for text in "bcd":
        speech.say(Delta(0, text, 1))
        time.sleep(0.05)
    time.sleep(0.3)
    store.away = False
    until(lambda: "".join(value for _, value in said(store, ref)) == "abcd", 3)


def test_what_redis_lost_is_said_again(store: CountingStore, echo: Engine, publisher: Publisher):
    ref = running(store, echo)
    speech = publisher.open(ref, 1)
    speech.say(Delta(0, "a", 1))
    until(lambda: said(store, ref), 1)
    speech.say(Delta(0, "b", 1))
    until(lambda: len(said(store, ref)) == 2, 1)
    store.client.hset(f"{store.prefix}job:{ref}", mapping={"events": 2, "told": 0})  # a server without its last second
    store.client.delete(f"{store.prefix}log:{ref}")
    speech.say(Delta(0, "c", 1))
    until(lambda: said(store, ref) == [("0", "a"), ("0", "b"), ("0", "c")], 3)


def test_a_fenced_attempt_is_not_spoken_for_any_more(store: CountingStore, echo: Engine, publisher: Publisher):
    ref = running(store, echo)
    speech = publisher.open(ref, 1)
    store.delete(ref)
    speech.say(Delta(0, "a", 1))
    until(lambda: not publisher._speeches, 2)


def test_an_empty_text_is_nothing(store: CountingStore, echo: Engine, publisher: Publisher):
    speech = publisher.open(running(store, echo), 1)
    speech.say(Delta(0, "", 1))
    time.sleep(0.05)
    assert store.calls == []
    assert speech.close() is None


class TestRuns:
    """The runner's part: in every end the log says what the output is."""

    def check(self, store: MemoryStore, ref: JobRef) -> None:
        job = store.get(ref)
        events = list(store.log(ref, 0, 1000).after(0))
        assert events[-1].kind == job.status
        texts: dict[str, str] = {}
        for event in events:
            if event.kind.isdigit():
                texts[event.kind] = texts.get(event.kind, "") + event.value
        assert texts == {str(choice.index): choice.text for choice in job.choices if choice.text}

    @pytest.mark.parametrize("spec", [{}, {"n": 3, "temperature": 0.5}, {"stop": ("l",)}, {"max_length": 10}])
    def test_a_success(self, store: CountingStore, echo: Engine, spec: dict):
        ref = submit(store, "hello 你好🙂", **spec)
        make_runner(store, echo).run(ref)
        assert store.get(ref).status is JobStatus.SUCCEEDED
        self.check(store, ref)

    def test_one_from_the_cache(self, store: CountingStore, echo: Engine):
        refs = [submit(store, "same") for _ in range(2)]
        for ref in refs:
            make_runner(store, echo).run(ref)
            self.check(store, ref)
        assert store.get(refs[1]).cached

    @pytest.mark.parametrize("why", [Stop.CANCELED, Stop.EXPIRED])
    def test_one_that_was_stopped(self, store: CountingStore, slow_echo: Engine, why: Stop):
        runner = make_runner(store, slow_echo)
        ref = submit(store, "你好🙂", max_length=400)
        thread = threading.Thread(target=runner.run, args=(ref,))
        thread.start()
        until(lambda: slow_echo.stats().generated_tokens > 6)
        runner.stop(ref, why)
        thread.join(10)
        assert store.get(ref).output
        self.check(store, ref)

    def test_one_that_is_handed_back_leaves_nothing_behind(self, store: CountingStore, slow_echo: Engine):
        runner = make_runner(store, slow_echo)
        ref = submit(store, max_length=400)
        thread = threading.Thread(target=runner.run, args=(ref,))
        thread.start()
        until(lambda: slow_echo.stats().generated_tokens > 6)
        slow_echo.shutdown(0)
        thread.join(10)
        assert not runner._publisher._speeches
        assert [event.kind for event in store.log(ref, 0, 10).after(0)] == ["queued", "started"]
