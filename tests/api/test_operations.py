"""Retries, deadlines, usage; and what administrators see and do: queues, workers, dead letters."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from shared.job import JobError, JobRef, JobStatus, Outcome, Usage
from shared.store.protocol import ModelInfo, Patience, WorkerInfo
from shared.store.retention import Retention
from tests.api.house import House, build, error_of

AT_ONCE = Patience(grace_s=60, pause_s=0)


class TestRetry:
    @pytest.mark.parametrize("end", [JobStatus.FAILED, JobStatus.EXPIRED, JobStatus.CANCELED])
    def test_what_did_not_succeed_may_run_again(self, house: House, end: JobStatus) -> None:
        job_id = house.submit()
        error = JobError("generation_failed", "no", retryable=True) if end is JobStatus.FAILED else None
        house.end(job_id, Outcome(end, usage=Usage(3, 2), error=error))
        response = house.call("POST", f"/api/jobs/{job_id}/retry")
        assert response.status_code == 202
        assert response.headers["Location"] == f"/api/jobs/{job_id}"
        assert response.headers["Retry-After"]
        body = response.json
        assert (body["id"], body["status"], body["attempt"], body["error"], body["usage"]) == (
            job_id,
            "queued",
            1,
            None,
            None,
        )
        house.run(job_id, "better")
        done = house.call("GET", f"/api/jobs/{job_id}").json
        assert (done["status"], done["attempt"], done["output"]) == ("succeeded", 2, "better")

    def test_its_hint_is_sent(self, house: House) -> None:
        job_id = house.submit()
        house.call("POST", f"/api/jobs/{job_id}/cancel")
        house.announce()
        house.call("POST", f"/api/jobs/{job_id}/retry")
        assert [hint.ref.id for hint in house.hints.sent] == [job_id]

    @pytest.mark.parametrize("state", ["queued", "running", "succeeded"])
    def test_another_may_not(self, house: House, state: str) -> None:
        job_id = house.submit()
        if state != "queued":
            (house.claim if state == "running" else house.run)(job_id)
        before = house.written()
        response = house.call("POST", f"/api/jobs/{job_id}/retry")
        assert (response.status_code, error_of(response)["code"]) == (409, "job_not_retryable")
        assert response.headers["x-should-retry"] == "false"
        assert house.written() == before

    def test_unknown_and_forgotten_ones(self, house: House) -> None:
        assert house.call("POST", "/api/jobs/nope/retry").status_code == 404
        job_id = house.submit(result_ttl_s=1)
        house.call("POST", f"/api/jobs/{job_id}/cancel")
        assert house.call("POST", f"/api/jobs/{job_id}/retry", key="rival").status_code == 404
        time.sleep(1.1)
        for action in ("retry", "cancel"):
            gone = house.call("POST", f"/api/jobs/{job_id}/{action}")
            assert (gone.status_code, error_of(gone)["code"]) == (410, "gone")


class TestDeadlines:
    def test_a_wait_that_is_too_long_expires(self, house: House) -> None:
        job_id = house.submit(queue_timeout_s=1)
        time.sleep(1.1)
        house.store.reconcile(AT_ONCE)
        job = house.call("GET", f"/api/jobs/{job_id}").json
        assert (job["status"], job["attempt"], job["usage"]["total_tokens"]) == ("expired", 0, 0)

    def test_the_limits_go_into_the_specification(self, house: House) -> None:
        house.submit(queue_timeout_s=86_400, execution_timeout_s=1)
        spec = house.store.submitted[-1][1]
        assert (spec.queue_timeout_s, spec.execution_timeout_s) == (86_400, 1)


class TestLimits:
    def test_the_whole_queue_is_full(self) -> None:
        house = build(max_waiting=2)
        house.submit()
        house.submit()
        jobs = len(house.store.submitted)
        for path, body in (("/api/generate", {"prompt": "a"}), ("/api/generate_batch", {"prompts": ["a"]})):
            response = house.call("POST", path, json=body)
            assert (response.status_code, error_of(response)["code"]) == (503, "queue_full")
            assert response.headers["Retry-After"]
        assert len(house.store.submitted) == jobs
        assert len(house.call("GET", "/api/jobs").json["data"]) == 2

    def test_a_key_over_its_tokens_of_the_day(self, house: House) -> None:
        key = house.call(
            "POST", "/api/admin/keys", json={"tenant": "shop", "tokens_per_day": 8, "weight": 5}, key="admin"
        ).json["key"]
        headers = {"X-API-Key": key}
        first = house.call("POST", "/api/generate", json={"prompt": "a"}, headers=headers)
        assert first.headers["x-ratelimit-limit-tokens"] == "8"
        assert first.headers["x-ratelimit-remaining-tokens"] == "8"
        assert first.headers["x-ratelimit-reset-tokens"].endswith("s")
        house.run(first.json["id"])
        assert house.store.client.hget(f"{house.store.prefix}job:shop:{first.json['id']}", "weight") == "5"
        second = house.call("POST", "/api/generate", json={"prompt": "a"}, headers=headers)
        assert (second.status_code, second.headers.get("x-ratelimit-remaining-tokens")) == (429, None)
        assert error_of(second)["code"] == "rate_limited"
        assert int(second.headers["Retry-After"]) > 0

    def test_a_key_without_such_a_limit_has_no_such_headers(self, house: House) -> None:
        response = house.call("POST", "/api/generate", json={"prompt": "a"})
        assert not [name for name in response.headers.keys() if name.endswith("-tokens")]  # noqa: SIM118  # not a dict


class TestQueues:
    def test_they_are_listed(self, house: House) -> None:
        house.announce(name="org/other")
        house.submit()
        assert house.call("GET", "/api/admin/queues", key="admin").json["data"] == [
            {"model": "demo", "length": 1, "paused": False, "workers": 0, "slots": 0, "eta_error": None},
            {"model": "org/other", "length": 0, "paused": False, "workers": 1, "slots": 4, "eta_error": None},
        ]

    def test_a_paused_queue_takes_jobs_and_sends_none(self, house: House) -> None:
        house.announce()
        paused = house.call("POST", "/api/admin/queues/demo/pause", key="admin")
        assert (paused.status_code, paused.json["paused"]) == (200, True)
        assert house.call("POST", "/api/admin/queues/demo/pause", key="admin").json["paused"] is True
        job_id = house.submit()
        assert house.hints.sent == []
        assert house.call("GET", f"/api/jobs/{job_id}").json["queue_position"] == 1
        resumed = house.call("POST", "/api/admin/queues/demo/resume", key="admin")
        assert (resumed.json["paused"], resumed.json["length"]) == (False, 1)
        assert [hint.ref.id for hint in house.hints.sent] == [job_id]

    @pytest.mark.parametrize("spelled", ["org/other", "org%2Fother"])
    def test_a_name_may_hold_a_slash(self, house: House, spelled: str) -> None:
        house.announce(name="org/other")
        response = house.call("POST", f"/api/admin/queues/{spelled}/pause", key="admin")
        assert (response.status_code, response.json["model"], response.json["paused"]) == (200, "org/other", True)

    def test_a_purge_cancels_what_waits(self, house: House) -> None:
        waiting = [house.submit() for _ in range(3)]
        running = house.submit()
        house.claim(running)
        response = house.call("POST", "/api/admin/queues/demo/purge", key="admin")
        assert response.json == {"model": "demo", "canceled": 3}
        statuses = [house.call("GET", f"/api/jobs/{job_id}").json["status"] for job_id in (*waiting, running)]
        assert statuses == ["canceled"] * 3 + ["running"]

    def test_an_unknown_one(self, house: House) -> None:
        before = house.written()
        for action in ("pause", "resume", "purge"):
            response = house.call("POST", f"/api/admin/queues/nope/{action}", key="admin")
            assert (response.status_code, error_of(response)["code"]) == (404, "not_found")
        assert house.written() == before

    @pytest.mark.parametrize("model", ["%00", "%20x", ".hidden", "a%2F%2Fb", "x" * 257])
    def test_a_name_that_cannot_be_one(self, house: House, model: str) -> None:
        response = house.call("POST", f"/api/admin/queues/{model}/pause", key="admin")
        assert (response.status_code, error_of(response)["param"]) == (422, "model")


def test_workers_are_listed_with_what_they_run(house: House) -> None:
    house.announce()
    house.claim(house.submit())
    data = house.call("GET", "/api/admin/workers", key="admin").json["data"]
    assert [(w["id"], w["state"], w["slots"], w["jobs"]) for w in data] == [
        ("w-demo", "ready", 4, 0),
        ("w1", "draining", 4, 1),
    ]
    assert data[0]["engine"] == "echo"


def test_a_worker_is_drained(house: House) -> None:
    house.announce()
    assert house.call("POST", "/api/admin/workers/w-demo/drain", key="admin").status_code == 202
    assert house.call("POST", "/api/admin/workers/w-demo/drain").status_code == 403
    assert house.call("POST", "/api/admin/workers/nobody/drain", key="admin").status_code == 404
    bad = house.call("POST", "/api/admin/workers/no%00body/drain", key="admin")
    assert (bad.status_code, error_of(bad)["param"]) == (422, "worker_id")


def test_a_queue_tells_how_far_off_its_etas_were(house: House) -> None:
    house.announce()
    assert house.call("GET", "/api/admin/queues", key="admin").json["data"][0]["eta_error"] is None
    house.claim(house.submit())
    (queue,) = house.call("GET", "/api/admin/queues", key="admin").json["data"]
    assert queue["eta_error"]["jobs"] == 1
    assert list(queue["eta_error"]["within"].values()) == [1]


class TestDeadLetters:
    @pytest.fixture
    def letter(self, house: House) -> str:
        """A job whose worker died."""
        job_id = house.submit()
        model = ModelInfo("demo", "1", "echo", "cpu", "none", 1024)
        house.store._retention = Retention(worker_lease_s=0.2)
        house.store.beat(WorkerInfo("dying", model, 4), ())
        assert house.store.claim(JobRef("shop", job_id), "dying", "t") is not None
        for _ in range(5):
            house.store.reconcile(Patience(most_crashes=1, pause_s=0))
            time.sleep(0.07)
        house.store._retention = Retention()
        return job_id

    def test_they_are_listed_without_prompts(self, house: House, letter: str) -> None:
        response = house.call("GET", "/api/admin/dead_letters", key="admin")
        (view,) = response.json["data"]
        assert (view["tenant"], view["id"], view["error"]["code"]) == ("shop", letter, "worker_crashed")
        assert "hello" not in response.text
        assert response.json["has_more"] is False

    def test_one_is_requeued_once(self, house: House, letter: str) -> None:
        (view,) = house.call("GET", "/api/admin/dead_letters", key="admin").json["data"]
        house.announce()
        assert house.call("POST", view["urls"]["requeue"], key="admin").status_code == 204
        assert [hint.ref.id for hint in house.hints.sent] == [letter]
        assert house.call("POST", view["urls"]["requeue"], key="admin").status_code == 404
        assert house.call("GET", f"/api/jobs/{letter}").json["status"] == "queued"
        assert house.call("GET", "/api/admin/dead_letters", key="admin").json["data"] == []


class TestUsage:
    def test_it_is_added_up(self, house: House) -> None:
        for _ in range(2):
            house.run(house.submit())
        today = datetime.now(UTC).date()
        report = house.call("GET", "/api/usage").json
        assert (report["first_day"], report["last_day"]) == (
            (today - timedelta(days=29)).isoformat(),
            today.isoformat(),
        )
        sums = {"jobs": 2, "prompt_tokens": 6, "completion_tokens": 10, "total_tokens": 16, "cached_tokens": 0}
        assert report["data"] == [{"day": today.isoformat(), "key_id": None, "model": None, **sums}]
        (row,) = house.call("GET", "/api/usage?group_by=key,model&days=1").json["data"]
        assert row == {"day": None, "key_id": house.keys.find(house.shop).id, "model": "demo", **sums}
        assert house.call("GET", "/api/usage?group_by=none").json["data"] == [
            {"day": None, "key_id": None, "model": None, **sums}
        ]

    def test_it_is_the_tenants_own(self, house: House) -> None:
        house.run(house.submit())
        assert house.call("GET", "/api/usage", key="rival").json["data"] == []

    @pytest.mark.parametrize(
        ("query", "param"),
        [("group_by=user", "group_by"), ("group_by=", "group_by"), ("group_by=key,", "group_by"), ("days=0", "days"),
         ("days=91", "days"), ("days=x", "days"), ("tenant=rival", "tenant")],
    )  # fmt: skip
    def test_a_wrong_parameter_is_named(self, house: House, query: str, param: str) -> None:
        response = house.call("GET", f"/api/usage?{query}")
        assert (response.status_code, error_of(response)["param"]) == (422, param)
