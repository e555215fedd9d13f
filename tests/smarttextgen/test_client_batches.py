"""``client.batches`` against a real HTTP server that speaks the contract."""

from __future__ import annotations

import pytest

from smarttextgen import APIError, Client, GoneError, InvalidRequestError, NotFoundError, WaitTimeoutError, batches
from tests.smarttextgen.fake_api import KEY, Failure, FakeApi


@pytest.fixture(autouse=True)
def short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(batches, "LONGEST_PAUSE_S", 0.01)


def test_prompts_and_requests(api: FakeApi, client: Client) -> None:
    batch = client.batches.create(["a", "b"], max_length=10)
    assert (batch.status, batch.counts["total"], batch.ended) == ("in_progress", 2, False)
    assert api.seen[-1].body == {"prompts": ["a", "b"], "max_length": 10}
    client.batches.create(
        iter(["a", {"custom_id": "x", "prompt": "b", "max_length": 20, "seed": None}]), mode="support"
    )
    assert api.seen[-1].body == {
        "requests": [{"prompt": "a"}, {"prompt": "b", "max_length": 20, "custom_id": "x"}],
        "mode": "support",
    }
    assert [each.id for each in client.batches.list()] == ["batch_2", "batch_1"]


def test_a_lost_answer_makes_no_second_batch(api: FakeApi, client: Client) -> None:
    api.fail_next(Failure(0, handled=True))
    assert client.batches.create(["a"]).id == "batch_1"
    client.batches.create(["a"], idempotency_key="mine")
    assert client.batches.create(["a"], idempotency_key="mine").id == "batch_2"
    assert len(api.batches.all) == 2


def test_results_follow_the_batch_to_its_end(api: FakeApi, client: Client) -> None:
    api.batches.ends_per_look = 7
    prompts = [f"prompt {number}" if number % 10 else "fail" for number in range(100)]
    batch = client.batches.create(prompts)
    results = list(client.batches.results(batch.id))
    assert [each.index for each in results] == api.batches.all[batch.id].order
    assert all(each.output == f"echo: {prompts[each.index]}" for each in results if each.succeeded)
    failed = [each for each in results if not each.succeeded]
    assert len(failed) == 10
    assert failed[0].error is not None
    assert failed[0].error.code == "generation_failed"


def test_results_after_a_cursor(api: FakeApi, client: Client) -> None:
    batch = client.batches.create([f"prompt {number}" for number in range(10)])
    results = list(client.batches.results(batch.id))
    assert list(client.batches.results(batch.id, cursor=results[3].cursor)) == results[4:]
    assert list(client.batches.results(batch.id, cursor=results[-1].cursor)) == []
    other = client.batches.create(["a"])
    with pytest.raises(InvalidRequestError):
        list(client.batches.results(other.id, cursor=results[3].cursor))


def test_an_answer_that_is_cut_short_loses_no_line(api: FakeApi, client: Client) -> None:
    api.batches.page = 4
    batch = client.batches.create([f"prompt {number}" for number in range(10)])
    api.batches.tear = 30
    assert len({each.index for each in client.batches.results(batch.id)}) == 10


def test_results_live_through_an_outage(api: FakeApi) -> None:
    api.batches.ends_per_look = 3
    with Client(api.url, KEY, max_retries=0) as client:
        batch = client.batches.create([f"prompt {number}" for number in range(10)])
        pages = client.batches.result_pages(batch.id)
        first = next(pages)
        api.fail_next(*[Failure(status) for status in (0, 500, 503, 429, 502)])
        assert len(first.data) + sum(len(page.data) for page in pages) == 10


def test_results_in_bounded_time(api: FakeApi, client: Client) -> None:
    api.batches.ends_per_look = 0
    batch = client.batches.create(["a"])
    with pytest.raises(WaitTimeoutError, match="batch_1"):
        list(client.batches.results(batch.id, timeout=0.1))
    with pytest.raises(WaitTimeoutError, match="batch_1"):
        client.batches.wait(batch.id, timeout=0.1)


def test_wait(api: FakeApi, client: Client) -> None:
    api.batches.ends_per_look = 1
    batch = client.batches.create(["a", "b", "c"])
    seen: list[int] = []
    ended = client.batches.wait(batch.id, on_update=lambda each: seen.append(each.counts["succeeded"]))
    assert (ended.status, ended.ended, seen) == ("completed", True, [1, 2, 3])


def test_cancel_and_delete(api: FakeApi, client: Client) -> None:
    api.batches.ends_per_look = 0
    batch = client.batches.create(["a"])
    client.batches.cancel(batch.id)
    api.batches.ends_per_look = 1
    assert client.batches.wait(batch.id).status == "canceled"
    assert len(list(client.batches.results(batch.id))) == 1
    client.batches.delete(batch.id)
    for call in (client.batches.get, client.batches.cancel, client.batches.delete, client.batches.result_page):
        with pytest.raises(NotFoundError):
            call(batch.id)


def test_results_that_are_none(api: FakeApi, client: Client) -> None:
    batch = client.batches.create(["a"])
    api.fail_next(Failure(410))
    with pytest.raises(GoneError):
        list(client.batches.results(batch.id))
    api.fail_next(Failure(200, body=b"<html>\n</html>\n"))
    with pytest.raises(APIError, match="no results"):
        list(client.batches.results(batch.id))
