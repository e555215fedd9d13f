"""The Idempotency-Key."""

from __future__ import annotations

import threading
import time

import pytest

from tests.api.house import House, error_of

BODY = {"prompt": "hello"}


def _post(house: House, idempotency_key: str, body: dict = BODY, path: str = "/api/generate", **more):
    return house.call("POST", path, json=body, headers={"Idempotency-Key": idempotency_key}, **more)


def test_the_same_request_again_is_answered_the_same(house: House) -> None:
    first = _post(house, "k1")
    again = _post(house, "k1")
    assert (first.status_code, first.data) == (again.status_code, again.data)
    assert first.headers["Location"] == again.headers["Location"]
    assert first.headers["Retry-After"] == again.headers["Retry-After"]
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert len(house.store.submitted) == 1


def test_a_batch_again_is_answered_the_same(house: House) -> None:
    body = {"prompts": ["a", "b"]}
    first = _post(house, "k1", body, "/api/generate_batch")
    again = _post(house, "k1", body, "/api/generate_batch")
    assert (first.data, first.headers["Location"]) == (again.data, again.headers["Location"])
    assert again.headers["Idempotent-Replayed"] == "true"
    assert len(house.store.submitted) == 2


def test_quotes_spacing_and_defaults_do_not_count(house: House) -> None:
    first = _post(house, '"k1"', {"prompt": "hello", "max_length": 100})
    again = house.call(
        "POST", "/api/generate", data=b'{ "max_length": 100.0,\n"prompt":"hel\\u006co"}', content_type="application/json",
        headers={"Idempotency-Key": "k1"},
    )  # fmt: skip
    assert again.data == first.data


def test_another_body_is_refused(house: House) -> None:
    _post(house, "k1")
    before = house.written()
    response = _post(house, "k1", {"prompt": "other"})
    assert (response.status_code, error_of(response)["code"]) == (422, "idempotency_key_reused")
    assert house.written() == before


def test_the_scope_is_tenant_and_path(house: House) -> None:
    _post(house, "k1")
    assert _post(house, "k1", {"prompt": "other"}, key="rival").status_code == 202
    assert _post(house, "k1", {"prompts": ["a"]}, "/api/generate_batch").status_code == 202


@pytest.mark.parametrize("key", ["", '""', "x" * 256, '"' + "x" * 256 + '"', "a b", "ü", 'a"b', '"a', "a\tb"])
def test_a_wrong_key_is_refused(house: House, key: str) -> None:
    response = _post(house, key)
    error = error_of(response)
    assert (response.status_code, error["param"]) == (422, "Idempotency-Key")
    assert house.store.submitted == []


@pytest.mark.parametrize("key", ["x", "x" * 255, '"' + "x" * 255 + '"', "!#$%&'()*+,-./:;<=>?@[]^_`{|}~"])
def test_a_key_has_up_to_255_characters(house: House, key: str) -> None:
    assert _post(house, key).status_code == 202


def test_refusals_are_not_kept(house: House) -> None:
    assert _post(house, "k1", {"prompt": ""}).status_code == 422
    assert _post(house, "k1").status_code == 202


def test_a_first_request_that_waits_is_in_progress_and_then_replayed(house: House) -> None:
    answers = []
    thread = threading.Thread(target=lambda: answers.append(_post(house, "k1", path="/api/generate?wait=5")))
    thread.start()
    while not house.store.submitted:
        time.sleep(0.01)
    busy = _post(house, "k1", path="/api/generate?wait=5")
    assert (busy.status_code, error_of(busy)["code"]) == (409, "idempotency_in_progress")
    assert busy.headers["Retry-After"] == "1"
    assert "x-should-retry" not in busy.headers
    house.run(house.store.submitted[0][0].id)
    thread.join()
    again = _post(house, "k1", path="/api/generate?wait=5")
    assert (answers[0].status_code, again.status_code) == (200, 200)
    assert again.data == answers[0].data
    assert again.headers["Idempotent-Replayed"] == "true"
    assert len(house.store.submitted) == 1


def test_a_wait_that_was_over_is_replayed_as_it_was(house: House) -> None:
    first = _post(house, "k1", path="/api/generate?wait=1")
    house.run(first.json["id"])
    again = _post(house, "k1", path="/api/generate?wait=1")
    assert (first.status_code, again.status_code, again.data) == (202, 202, first.data)
    assert again.headers["Location"] == first.headers["Location"]


def test_a_secret_is_not_kept_for_a_replay(house: House) -> None:
    for path in ("/api/admin/keys", "/api/admin/keys/key_1/rotate"):
        response = house.call("POST", path, json={"tenant": "x"}, headers={"Idempotency-Key": "k1"}, key="admin")
        error = error_of(response)
        assert (response.status_code, error["code"], error["param"]) == (
            400,
            "idempotency_not_supported",
            "Idempotency-Key",
        )
