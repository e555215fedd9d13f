"""A job's life as a client sees it."""

from __future__ import annotations

import re
import time

import pytest

from api.hints import CeleryHints
from shared.job import Choice, JobError, JobRef, JobStatus, Outcome, Usage
from shared.queue import make_celery
from shared.settings import load_settings
from shared.store.protocol import Hint
from tests.api.house import House, build, error_of
from tests.servers import later

ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def test_a_submit_is_accepted(house: House) -> None:
    response = house.call("POST", "/api/generate", json={"prompt": "hello"})
    body = response.json
    assert response.status_code == 202
    assert set(body) == {"id", "status", "queue_position", "eta_seconds", "created_at", "urls"}
    assert re.fullmatch(r"job_[0-9a-f]{32}", body["id"])
    assert (body["status"], body["queue_position"]) == ("queued", 1)
    assert ISO.fullmatch(body["created_at"])
    assert response.headers["Location"] == f"/api/jobs/{body['id']}" == body["urls"]["self"]
    assert int(response.headers["Retry-After"]) >= 1
    assert [ref.id for ref, _ in house.store.submitted] == [body["id"]]


def test_defaults_and_options_reach_the_job(house: House) -> None:
    house.submit()
    spec = house.store.submitted[0][1]
    assert (spec.max_length, spec.mode, spec.model, spec.temperature, spec.top_p, spec.n) == (
        100,
        "general",
        "demo",
        0.7,
        1.0,
        1,
    )
    options = {
        "user_id": "Ünïcødé 使用者", "max_length": 10, "mode": "support", "model": "demo", "temperature": 0, "top_p": 0.5,
        "top_k": 1000, "repetition_penalty": 2, "seed": 2**63 - 1, "stop": "END", "n": 4, "priority": "high",
        "result_ttl_s": 60, "cache": False, "metadata": {"order": "7"},
    }  # fmt: skip
    house.submit("x" * 8000, **options)
    spec = house.store.submitted[1][1]
    assert (spec.stop, spec.seed, spec.n, spec.priority, spec.cache) == (("END",), 2**63 - 1, 4, "high", False)
    assert (spec.user_id, dict(spec.metadata), spec.result_ttl_s) == ("Ünïcødé 使用者", {"order": "7"}, 60)


def test_a_finished_job_shows_everything(house: House) -> None:
    job_id = house.submit(user_id="ann", metadata={"a": "b"})
    queued = house.call("GET", f"/api/jobs/{job_id}")
    assert (queued.json["status"], queued.json["usage"], queued.json["output"]) == ("queued", None, None)
    assert queued.headers["Retry-After"]
    house.run(job_id, "good day")
    response = house.call("GET", f"/api/jobs/{job_id}")
    job = response.json
    assert "Retry-After" not in response.headers
    assert (job["status"], job["input"], job["output"]) == ("succeeded", "hello", "good day")
    assert job["choices"] == [{"index": 0, "text": "good day", "finish_reason": "stop", "logprobs": None}]
    assert (job["input_token_ids"], job["system_fingerprint"]) == (None, None)
    assert job["history"] == [{"input": "hello", "output": "good day"}]
    assert job["usage"] == {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8, "cached_tokens": 0}
    assert all(ISO.fullmatch(job[name]) for name in ("created_at", "started_at", "finished_at", "expires_at"))
    assert (job["attempt"], job["error"], job["cached"], job["cancel_requested"]) == (1, None, False, False)
    assert (job["metadata"], job["user_id"], job["batch_id"]) == ({"a": "b"}, "ann", None)
    assert job["queue_time_ms"] >= 0
    assert job["execution_time_ms"] >= 0


def test_a_failed_job_says_why(house: House) -> None:
    ref = house.claim(house.submit())
    failure = JobError("generation_failed", "The model failed.", retryable=True)
    house.store.finish(ref, "w1", 1, Outcome(JobStatus.FAILED, error=failure, usage=Usage(3, 0)))
    job = house.call("GET", f"/api/jobs/{ref.id}").json
    assert job["status"] == "failed"
    assert job["error"] == {"code": "generation_failed", "message": "The model failed.", "retryable": True}
    assert job["usage"]["prompt_tokens"] == 3


def test_an_etag_saves_the_body(house: House) -> None:
    job_id = house.submit()
    house.run(job_id)
    first = house.call("GET", f"/api/jobs/{job_id}")
    again = house.call("GET", f"/api/jobs/{job_id}", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data, again.headers["ETag"]) == (304, b"", first.headers["ETag"])
    other = house.call("GET", f"/api/jobs/{job_id}", headers={"If-None-Match": '"other"'})
    assert other.status_code == 200


def test_unknown_and_forgotten_jobs(house: House) -> None:
    assert error_of(house.call("GET", "/api/jobs/nope"))["code"] == "not_found"
    assert house.call("GET", "/api/jobs/nope").status_code == 404
    job_id = house.submit(result_ttl_s=1)
    house.run(job_id)
    time.sleep(1.2)
    gone = house.call("GET", f"/api/jobs/{job_id}")
    assert (gone.status_code, error_of(gone)["code"]) == (410, "gone")


@pytest.mark.parametrize("ask", ["query", "prefer"])
def test_a_submit_may_wait_for_the_end(house: House, ask: str) -> None:
    def work() -> None:
        while not house.store.submitted:
            time.sleep(0.01)
        house.run(house.store.submitted[0][0].id, "late but there")

    started = time.monotonic()
    query, headers = ("?wait=5", {}) if ask == "query" else ("", {"Prefer": "respond-async, wait=5"})
    body = {"prompt": "hello", "user_id": "ann"}
    with later(0, work):
        response = house.call("POST", f"/api/generate{query}", json=body, headers=headers)
    assert response.status_code == 200
    assert time.monotonic() - started < 3
    assert response.json["output"] == "late but there"
    assert response.json["history"] == [{"input": "hello", "output": "late but there"}]
    assert response.headers.get("Preference-Applied") == ("wait=5" if ask == "prefer" else None)


def test_a_wait_that_is_over_is_a_202(house: House) -> None:
    started = time.monotonic()
    response = house.call("POST", "/api/generate?wait=1", json={"prompt": "hello"})
    assert 0.9 < time.monotonic() - started < 3
    assert (response.status_code, response.json["status"]) == (202, "queued")
    assert response.headers["Location"]
    assert "Preference-Applied" not in response.headers


@pytest.mark.parametrize("prefer", ["wait=x", "wait=-1", "", "respond-async", "wait=0", 'wait="'])
def test_preferences_that_say_nothing_do_not_wait(house: House, prefer: str) -> None:
    started = time.monotonic()
    assert house.call("POST", "/api/generate", json={"prompt": "a"}, headers={"Prefer": prefer}).status_code == 202
    assert time.monotonic() - started < 0.9


def test_a_preference_is_held_to_the_longest_wait() -> None:
    house = build(max_wait_s=1)
    started = time.monotonic()
    house.call("POST", "/api/generate", json={"prompt": "a"}, headers={"Prefer": "wait=3600"})
    house.call("POST", "/api/generate", json={"prompt": "a"}, headers={"Prefer": "wait"})
    assert 1.8 < time.monotonic() - started < 4


def test_a_long_poll_ends_with_the_job(house: House) -> None:
    job_id = house.submit()
    started = time.monotonic()
    with later(0.3, house.run, job_id):
        response = house.call("GET", f"/api/jobs/{job_id}?wait=5")
    assert 0.2 < time.monotonic() - started < 3
    assert response.json["status"] == "succeeded"
    assert house.room.taken == 0


def test_a_long_poll_sees_a_job_deleted_meanwhile(house: House) -> None:
    job_id = house.submit()
    with later(0.2, house.store.delete, JobRef("shop", job_id)):
        assert house.call("GET", f"/api/jobs/{job_id}?wait=5").status_code == 404


def test_beyond_the_places_a_wait_is_answered_at_once() -> None:
    house = build(api_max_waiters=0)
    job_id = house.submit()
    started = time.monotonic()
    assert house.call("GET", f"/api/jobs/{job_id}?wait=5").json["status"] == "queued"
    assert house.call("POST", "/api/generate?wait=5", json={"prompt": "a"}).status_code == 202
    assert house.call("POST", "/api/generate_batch?wait=5", json={"prompts": ["a"]}).status_code == 202
    assert time.monotonic() - started < 1


def test_cancel(house: House) -> None:
    job_id = house.submit()
    for _ in range(2):
        response = house.call("POST", f"/api/jobs/{job_id}/cancel")
        assert (response.status_code, response.json["status"]) == (200, "canceled")
        assert response.json["usage"]["total_tokens"] == 0
    running = house.claim(house.submit())
    for _ in range(2):
        response = house.call("POST", f"/api/jobs/{running.id}/cancel")
        assert (response.status_code, response.json["status"], response.json["cancel_requested"]) == (
            202,
            "running",
            True,
        )
    partial = Outcome(JobStatus.CANCELED, (Choice(0, "par", "canceled"),), Usage(3, 1))
    house.store.finish(running, "w1", 1, partial)
    response = house.call("POST", f"/api/jobs/{running.id}/cancel")
    assert (response.status_code, response.json["output"]) == (200, "par")


def test_a_finished_job_cannot_be_canceled(house: House) -> None:
    job_id = house.submit()
    house.run(job_id)
    response = house.call("POST", f"/api/jobs/{job_id}/cancel")
    assert (response.status_code, error_of(response)["code"]) == (409, "job_already_finished")
    assert response.headers["x-should-retry"] == "false"


def test_delete_leaves_nothing(house: House) -> None:
    job_id = house.submit(user_id="ann")
    house.run(job_id)
    response = house.call("DELETE", f"/api/jobs/{job_id}")
    assert (response.status_code, response.data) == (204, b"")
    assert house.call("GET", f"/api/jobs/{job_id}").status_code == 404
    assert house.call("DELETE", f"/api/jobs/{job_id}").status_code == 404
    assert house.call("GET", "/api/history/ann").json["history"] == []


def test_a_job_under_an_id_of_the_clients(house: House) -> None:
    first = house.call("PUT", "/api/jobs/order-7", json={"prompt": "a"})
    assert (first.status_code, first.json["id"], first.headers["Location"]) == (201, "order-7", "/api/jobs/order-7")
    again = house.call("PUT", "/api/jobs/order-7", json={"max_length": 100, "prompt": "a"})
    assert (again.status_code, again.json["input"]) == (200, "a")
    assert len(house.store.submitted) == 1
    other = house.call("PUT", "/api/jobs/order-7", json={"prompt": "b"})
    assert (other.status_code, error_of(other)["code"]) == (409, "job_exists")
    assert other.headers["x-should-retry"] == "false"
    rival = house.call("PUT", "/api/jobs/order-7", json={"prompt": "b"}, key="rival")
    assert rival.status_code == 201
    house.run("order-7", "done")
    started = time.monotonic()
    assert house.call("PUT", "/api/jobs/order-7?wait=3", json={"prompt": "a"}).json["output"] == "done"
    assert time.monotonic() - started < 1, "it ended before"


def test_a_put_may_wait(house: House) -> None:
    for _ in range(2):  # the first makes it, the second finds it waiting
        response = house.call("PUT", "/api/jobs/mine?wait=1", json={"prompt": "a"})
        assert response.json["status"] == "queued"
    started = time.monotonic()
    with later(0.3, house.run, "mine", "done"):
        assert house.call("PUT", "/api/jobs/mine?wait=5", json={"prompt": "a"}).json["output"] == "done"
    assert time.monotonic() - started < 3


def test_lists_are_pages_newest_first(house: House) -> None:
    ids = [house.submit(f"p{i}") for i in range(5)]
    seen: list[str] = []
    query = "limit=2"
    for _ in range(3):
        page = house.call("GET", f"/api/jobs?{query}").json
        seen += [job["id"] for job in page["data"]]
        assert page["has_more"] == (page["next_cursor"] is not None)
        query = f"limit=2&cursor={page['next_cursor']}"
    assert seen == ids[::-1]
    assert page["next_cursor"] is None


def test_lists_are_filtered(house: House) -> None:
    house.announce(name="other")
    plain = house.submit("a")
    mode = house.submit("b", mode="support")
    model = house.submit("c", model="other")
    user = house.submit("d", user_id="Ann & Bo")
    house.run(plain)

    def found(**query: str) -> list[str]:
        return [job["id"] for job in house.call("GET", "/api/jobs", query_string=query).json["data"]]

    assert found(status="succeeded") == [plain]
    assert found(mode="support") == [mode]
    assert found(model="other") == [model]
    assert found(user_id="Ann & Bo") == [user]
    assert found(status="queued", mode="general", model="demo") == [user]
    created = house.call("GET", f"/api/jobs/{plain}").json["created_at"]
    assert found(created_after="2020-01-01T00:00:00+02:00", created_before="2099-01-01t00:00:00z") == [
        user,
        model,
        mode,
        plain,
    ]
    assert plain not in found(created_after=created)
    assert found(created_before=created) == []
    assert found(created_after="2098-12-31T23:59:60Z") == []


def test_another_tenants_job_does_not_exist(house: House) -> None:
    job_id = house.submit(user_id="ann")
    house.run(job_id)
    batch_id = house.call("POST", "/api/generate_batch", json={"prompts": ["a"]}).json["id"]
    before = house.written()
    for method, path in (
        ("GET", f"/api/jobs/{job_id}"),
        ("POST", f"/api/jobs/{job_id}/cancel"),
        ("DELETE", f"/api/jobs/{job_id}"),
        ("GET", f"/api/batches/{batch_id}"),
    ):
        response = house.call(method, path, key="rival")
        unknown = house.call(method, path.replace(job_id, "nope").replace(batch_id, "nope"), key="rival")
        assert response.status_code == unknown.status_code == 404
        assert response.json == unknown.json
    assert house.call("GET", "/api/history/ann", key="rival").json["history"] == []
    assert house.call("DELETE", "/api/history/ann", key="rival").status_code == 204
    assert house.call("GET", "/api/jobs", key="rival").json["data"] == []
    assert house.written() == before


def test_the_hints_of_a_submit_are_sent(house: House) -> None:
    """They may be another tenant's: what the window has room for is the scheduler's to say."""
    early = [house.submit() for _ in range(2)]
    assert house.hints.sent == []
    house.announce()
    late = house.submit()
    assert [hint.ref.id for hint in house.hints.sent] == [*early, late]


def test_a_hint_that_cannot_be_sent_changes_nothing() -> None:
    """202 is a promise: the record is there, and the reconciler finds that its hint is not."""
    celery = make_celery(load_settings(redis_url="redis://127.0.0.1:1/0"))
    CeleryHints(celery, "stg").send([Hint(JobRef("shop", "a"), "demo")])
    celery.close()
