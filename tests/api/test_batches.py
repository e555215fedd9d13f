"""Batches."""

from __future__ import annotations

import json
import threading
import time

import pytest
from werkzeug.test import TestResponse

from shared.errors import StoreUnavailableError
from shared.job import JobStatus, Outcome
from shared.store import redis_batches
from shared.store.redis_batches import CHUNK
from tests.api.house import House, build, error_of


def _submit(house: House, body: dict, query: str = ""):
    return house.call("POST", f"/api/generate_batch{query}", json=body)


def test_a_batch_is_accepted(house: House) -> None:
    response = _submit(house, {"prompts": ["a", "b", "c"], "max_length": 20})
    body = response.json
    assert response.status_code == 202
    assert set(body) == {"id", "object", "status", "counts", "created_at", "urls"}
    path = f"/api/batches/{body['id']}"
    assert body["urls"] == {"self": path, "results": f"{path}/results", "cancel": f"{path}/cancel"}
    assert (body["object"], body["status"]) == ("batch", "in_progress")
    assert (body["counts"]["total"], body["counts"]["queued"]) == (3, 3)
    assert response.headers["Location"] == f"/api/batches/{body['id']}" == body["urls"]["self"]
    assert response.headers["Retry-After"]
    assert [spec.prompt for _, spec in house.store.submitted] == ["a", "b", "c"]
    assert {spec.max_length for _, spec in house.store.submitted} == {20}


def test_a_completed_batch_has_its_lists_in_order(house: House) -> None:
    batch_id = _submit(house, {"prompts": ["a", "b", "c"], "user_id": "ann"}).json["id"]
    ids = [ref.id for ref, _ in house.store.submitted]
    path = f"/api/batches/{batch_id}"
    house.run(ids[2], "C")
    running = house.call("GET", path)
    assert running.headers["Retry-After"]
    assert (running.json["status"], running.json["inputs"], running.json["outputs"]) == ("in_progress", None, None)
    assert running.json["counts"]["succeeded"] == 1
    house.run(ids[0], "A")
    house.store.finish(house.claim(ids[1]), "w1", 1, Outcome(JobStatus.FAILED))
    done = house.call("GET", path)
    assert "Retry-After" not in done.headers
    assert (done.json["status"], done.json["inputs"]) == ("completed", ["a", "b", "c"])
    assert done.json["outputs"] == ["A", None, "C"]
    assert [len(turns) for turns in done.json["history"]] == [2, 0, 1]
    assert [job["id"] for job in done.json["jobs"]] == ids
    assert [job["status"] for job in done.json["jobs"]] == ["succeeded", "failed", "succeeded"]
    assert house.call("GET", f"/api/jobs/{ids[0]}").json["batch_id"] == batch_id


def test_requests_have_their_own_options_over_the_common_ones(house: House) -> None:
    requests = [
        {"prompt": "a", "custom_id": "row-1"},
        {"prompt": "b", "mode": "support", "max_length": 11, "stop": ["x"]},
    ]
    batch_id = _submit(house, {"requests": requests, "max_length": 33, "temperature": 0, "stop": "y"}).json["id"]
    first, second = (spec for _, spec in house.store.submitted)
    assert (first.mode, first.max_length, first.temperature, first.stop) == ("general", 33, 0, ("y",))
    assert (second.mode, second.max_length, second.temperature, second.stop) == ("support", 11, 0, ("x",))
    jobs = house.call("GET", f"/api/batches/{batch_id}").json["jobs"]
    assert [job["custom_id"] for job in jobs] == ["row-1", None]


def test_a_batch_may_be_waited_for(house: House) -> None:
    def work() -> None:
        while len(house.store.submitted) < 2:
            time.sleep(0.01)
        for ref, spec in house.store.submitted:
            house.run(ref.id, spec.prompt.upper())

    threading.Thread(target=work).start()
    response = _submit(house, {"prompts": ["a", "b"]}, "?wait=5")
    assert (response.status_code, response.json["outputs"]) == (200, ["A", "B"])
    late = _submit(house, {"prompts": ["a", "b"]}, "?wait=1")
    assert (late.status_code, late.json["status"]) == (202, "in_progress")


def test_all_or_none(house: House) -> None:
    key = house.call("POST", "/api/admin/keys", json={"tenant": "shop", "max_queued": 3}, key="admin").json["key"]
    headers = {"X-API-Key": key}
    assert house.call("POST", "/api/generate_batch", json={"prompts": ["a"] * 2}, headers=headers).status_code == 202
    before = len(house.store.submitted)
    full = house.call("POST", "/api/generate_batch", json={"prompts": ["a"] * 2}, headers=headers)
    assert (full.status_code, error_of(full)["code"]) == (429, "queue_limit")
    assert full.headers["Retry-After"]
    assert "RateLimit" not in full.headers
    assert len(house.store.submitted) == before
    assert len(house.call("GET", "/api/jobs").json["data"]) == 2


def test_an_unknown_batch(house: House) -> None:
    response = house.call("GET", "/api/batches/nope")
    assert (response.status_code, error_of(response)["code"]) == (404, "not_found")


# --- results


def _lines(response: TestResponse) -> list[dict]:
    assert (response.status_code, response.mimetype) == (200, "application/x-ndjson")
    return [json.loads(line) for line in response.text.splitlines()]


def _ids(house: House) -> list[str]:
    return [ref.id for ref, _ in house.store.submitted]


def test_results_as_they_come(house: House) -> None:
    requests = [{"prompt": prompt, "custom_id": f"row-{prompt}"} for prompt in "abc"]
    path = _submit(house, {"requests": requests}).json["urls"]["results"]
    ids = _ids(house)
    empty = house.call("GET", path)
    assert (_lines(empty), empty.headers["X-Batch-Status"]) == ([], "in_progress")
    assert empty.headers["Retry-After"]
    house.run(ids[2], "C")
    house.end(ids[0], Outcome(JobStatus.FAILED))
    cursor = empty.headers["X-Next-Cursor"]
    first = house.call("GET", f"{path}?cursor={cursor}")
    lines = _lines(first)
    assert [(line["custom_id"], line["index"], line["id"], line["status"], line["output"]) for line in lines] == [
        ("row-c", 2, ids[2], "succeeded", "C"), ("row-a", 0, ids[0], "failed", None),
    ]  # fmt: skip
    assert set(lines[0]) == {
        "custom_id", "id", "index", "status", "output", "choices", "usage", "error", "cached", "system_fingerprint",
        "finished_at", "cursor",
    }  # fmt: skip
    assert lines[0]["usage"]["total_tokens"] == 8
    assert first.headers["X-Next-Cursor"] == lines[-1]["cursor"]
    nothing = house.call("GET", f"{path}?cursor={lines[-1]['cursor']}")
    assert (_lines(nothing), nothing.headers["X-Next-Cursor"]) == ([], lines[-1]["cursor"])
    house.run(ids[1], "B")
    rest = house.call("GET", f"{path}?cursor={lines[0]['cursor']}")
    assert [line["index"] for line in _lines(rest)] == [0, 1]
    assert rest.headers["X-Batch-Status"] == "completed"
    assert "Retry-After" not in rest.headers


def test_results_in_pages(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_batches, "READ", 2)
    path = _submit(house, {"prompts": ["a"] * 9}).json["urls"]["results"]
    ids = _ids(house)
    for job_id in reversed(ids):
        house.run(job_id)
    assert [line["id"] for line in _lines(house.call("GET", path))] == ids[::-1], "more than one read of the store"
    seen, url = [], f"{path}?limit=4"
    for _ in range(4):
        page = house.call("GET", url)
        seen.append([line["id"] for line in _lines(page)])
        url = f"{path}?limit=4&cursor={page.headers['X-Next-Cursor']}"
    assert [len(page) for page in seen] == [4, 4, 1, 0]
    assert [job_id for page in seen for job_id in page] == ids[::-1]


@pytest.mark.parametrize("cursor", ["", "x", "1.00000000", "0", "-1.aaaaaaaa", "9" * 400, "%00"])
def test_a_cursor_that_was_made_up(house: House, cursor: str) -> None:
    path = _submit(house, {"prompts": ["a"]}).json["urls"]["results"]
    response = house.call("GET", f"{path}?cursor={cursor}")
    assert (response.status_code, error_of(response)["code"], error_of(response)["param"]) == (
        400, "invalid_cursor", "cursor",
    )  # fmt: skip


def test_a_cursor_of_another_batch(house: House) -> None:
    one, other = (_submit(house, {"prompts": ["a"]}).json["urls"]["results"] for _ in range(2))
    house.run(_ids(house)[0])
    cursor = house.call("GET", one).headers["X-Next-Cursor"]
    response = house.call("GET", f"{other}?cursor={cursor}")
    assert (response.status_code, error_of(response)["code"]) == (400, "invalid_cursor")


# --- many


def test_a_batch_of_several_chunks(house: House) -> None:
    size = CHUNK + 1
    body = {"requests": [{"prompt": f"prompt {n}", "custom_id": f"row-{n}"} for n in range(size)]}
    response = _submit(house, body)
    assert response.json["counts"]["total"] == size
    assert response.headers["x-ratelimit-remaining-requests"] == "599", "it counts as one request"
    batch = house.call("GET", response.json["urls"]["self"]).json
    assert batch["counts"]["queued"] == size
    assert (batch["jobs"], batch["inputs"], batch["outputs"], batch["history"]) == (None,) * 4
    page = house.call("GET", "/api/jobs?limit=1").json["data"]
    assert (page[0]["input"], page[0]["batch_id"]) == (f"prompt {size - 1}", response.json["id"])


def test_a_batch_that_is_too_large(house: House) -> None:
    house = build(api_max_batch_bytes=2_000, api_max_body_bytes=1_024)
    before = house.written()
    large = _submit(house, {"prompts": ["a" * 1_000] * 2})
    assert (large.status_code, error_of(large)["code"]) == (413, "payload_too_large")
    assert house.written() == before
    assert _submit(house, {"prompts": ["a" * 900] * 2}).status_code == 202, "more than other bodies may have"


def test_an_outage_between_chunks_admits_nothing(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    run, calls = house.store._scripts.run, []

    def dying(name: str, *args):
        calls.append(name)
        if name == "batch_admit" and calls.count(name) == 2:
            raise StoreUnavailableError
        return run(name, *args)

    monkeypatch.setattr(house.store._scripts, "run", dying)
    monkeypatch.setattr(redis_batches, "CHUNK", 2)
    response = _submit(house, {"prompts": ["a"] * 3})
    assert (response.status_code, error_of(response)["code"]) == (503, "store_unavailable")
    assert house.call("GET", "/api/jobs").json["data"] == []
    assert house.call("GET", "/api/batches").json["data"] == []


def test_an_outage_after_the_last_chunk_changes_nothing(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_):
        raise StoreUnavailableError

    monkeypatch.setattr(house.store, "step_batch", away)
    response = _submit(house, {"prompts": ["a"] * (CHUNK + 1)})
    assert (response.status_code, response.json["counts"]["queued"]) == (202, CHUNK + 1)


# --- lists, cancel, delete


def test_a_list_in_pages(house: House) -> None:
    ids = [_submit(house, {"prompts": ["a"] * 2}).json["id"] for _ in range(3)]
    first = house.call("GET", "/api/batches?limit=2").json
    assert ([batch["id"] for batch in first["data"]], first["has_more"]) == ([ids[2], ids[1]], True)
    assert set(first["data"][0]) == {
        "id", "object", "status", "counts", "created_at", "urls", "completed_at", "cancel_requested",
    }  # fmt: skip
    rest = house.call("GET", f"/api/batches?limit=2&cursor={first['next_cursor']}").json
    assert ([batch["id"] for batch in rest["data"]], rest["next_cursor"]) == ([ids[0]], None)
    assert house.call("GET", "/api/batches", key="rival").json["data"] == []


def test_a_batch_is_canceled(house: House) -> None:
    body = _submit(house, {"prompts": ["a", "b", "c"]}).json
    ids = _ids(house)
    house.run(ids[0], "A")
    ref = house.claim(ids[1])
    first = house.call("POST", body["urls"]["cancel"])
    assert (first.status_code, first.json["status"], first.json["cancel_requested"]) == (202, "canceling", True)
    assert (first.json["counts"]["canceled"], first.json["counts"]["running"]) == (1, 1)
    assert first.headers["Retry-After"]
    house.store.finish(ref, "w1", 1, Outcome(JobStatus.CANCELED))
    for _ in range(2):
        again = house.call("POST", body["urls"]["cancel"])
        assert (again.status_code, again.json["status"]) == (200, "canceled")
    assert again.json["completed_at"]
    whole = house.call("GET", body["urls"]["self"]).json
    assert whole["outputs"] == ["A", None, None]
    assert [line["status"] for line in _lines(house.call("GET", body["urls"]["results"]))] == [
        "succeeded", "canceled", "canceled",
    ]  # fmt: skip


def test_a_completed_batch_cannot_be_canceled(house: House) -> None:
    body = _submit(house, {"prompts": ["a"]}).json
    house.run(_ids(house)[0])
    response = house.call("POST", body["urls"]["cancel"])
    assert (response.status_code, error_of(response)["code"]) == (409, "batch_already_finished")
    assert response.headers["x-should-retry"] == "false"


def test_a_batch_is_deleted(house: House) -> None:
    body = _submit(house, {"prompts": ["a", "b"], "user_id": "ann"}).json
    ids = _ids(house)
    house.run(ids[0], "A")
    assert house.call("DELETE", body["urls"]["self"], key="rival").status_code == 404
    assert house.call("DELETE", body["urls"]["self"]).status_code == 204
    for method, path in (
        ("GET", body["urls"]["self"]), ("GET", body["urls"]["results"]), ("POST", body["urls"]["cancel"]),
        ("DELETE", body["urls"]["self"]), *(("GET", f"/api/jobs/{job_id}") for job_id in ids),
    ):  # fmt: skip
        assert house.call(method, path).status_code == 404, path
    assert house.call("GET", "/api/history/ann").json["history"] == []
