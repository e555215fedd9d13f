"""Batches."""

from __future__ import annotations

import threading
import time

from shared.job import JobStatus, Outcome
from tests.api.house import House, error_of


def _submit(house: House, body: dict, query: str = ""):
    return house.call("POST", f"/api/generate_batch{query}", json=body)


def test_a_batch_is_accepted(house: House) -> None:
    response = _submit(house, {"prompts": ["a", "b", "c"], "max_length": 20})
    body = response.json
    assert response.status_code == 202
    assert set(body) == {"id", "object", "status", "counts", "created_at", "urls"}
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


def test_the_largest_batch(house: House) -> None:
    assert _submit(house, {"prompts": ["a"] * 500}).json["counts"]["total"] == 500


def test_an_unknown_batch(house: House) -> None:
    response = house.call("GET", "/api/batches/nope")
    assert (response.status_code, error_of(response)["code"]) == (404, "not_found")
