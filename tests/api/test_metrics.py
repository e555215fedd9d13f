"""What Prometheus reads of the API, in one process; several are in test_live_metrics.py."""

from __future__ import annotations

import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from shared.errors import StoreUnavailableError
from shared.job import JobError, JobStatus, Outcome
from tests.api.house import House, build


def read(house: House) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    response = house.call("GET", "/metrics", key=None)
    assert response.status_code == 200
    return samples(response.text)


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(house: House, name: str, **labels: str) -> float:
    return read(house)[name, frozenset(labels.items())]


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> House:
    monkeypatch.setattr("api.store_collector.MEMORY_S", 0)
    return build(metrics_tenants="shop")


class TestHttp:
    def test_a_request_is_counted_by_its_route_and_never_by_its_path(self, house: House):
        job_id = house.submit()
        house.call("GET", f"/api/jobs/{job_id}")
        house.call("GET", "/api/jobs/nobody")
        handler = "/api/jobs/<job_id>"
        assert value(house, "http_requests_total", handler=handler, method="GET", status="200") == 1
        assert value(house, "http_requests_total", handler=handler, method="GET", status="404") == 1
        assert value(house, "http_request_duration_seconds_count", handler=handler, method="GET") == 2
        assert not any(job_id in str(key) for key in read(house))

    def test_strange_paths_and_methods_share_one_label(self, house: House):
        for path in ("/a", "/b?x=1", "/wp-login.php"):
            house.call("GET", path)
        house.client.open("/c", method="BREW")
        assert value(house, "http_requests_total", handler="unmatched", method="GET", status="404") == 3
        assert value(house, "http_requests_total", handler="unmatched", method="other", status="404") == 1

    def test_failures_of_authentication(self, house: House):
        assert value(house, "textgen_auth_failures_total", reason="unauthenticated") == 0
        house.call("GET", "/api/jobs", key=None)
        house.call("GET", "/api/jobs", key=None, headers={"X-API-Key": "wrong"})
        house.call("GET", "/api/admin/queues")
        assert value(house, "textgen_auth_failures_total", reason="unauthenticated") == 2
        assert value(house, "textgen_auth_failures_total", reason="forbidden") == 1

    def test_long_polls_are_counted_while_they_wait(self, house: House):
        job_id = house.submit()
        polled = threading.Thread(target=house.call, args=("GET", f"/api/jobs/{job_id}?wait=5"))
        polled.start()
        while value(house, "textgen_open_long_polls") != 1:
            assert polled.is_alive()
        house.run(job_id)
        polled.join()
        assert value(house, "textgen_open_long_polls") == 0


class TestStore:
    def test_jobs_queues_and_workers(self, house: House):
        assert value(house, "textgen_workers", model_name="demo", state="ready") == 0
        house.announce()
        house.run(house.submit())
        house.end(house.submit(), Outcome(JobStatus.FAILED, error=JobError("x", "y")))
        house.submit()
        assert value(house, "textgen_redis_up") == 1
        assert value(house, "textgen_jobs_ended_total", status="succeeded") == 1
        assert value(house, "textgen_jobs_ended_total", status="failed") == 1
        assert value(house, "textgen_jobs_waiting", model_name="demo") == 1
        assert value(house, "textgen_jobs_running", model_name="demo") == 0
        assert value(house, "textgen_slots", model_name="demo") == 4
        assert value(house, "textgen_workers", model_name="demo", state="ready") == 1
        assert value(house, "textgen_oldest_waiting_seconds", model_name="demo") > 0
        for name in ("textgen_lease_expiries_total", "textgen_jobs_requeued_total", "textgen_hints_resent_total"):
            assert value(house, name) == 0
        assert value(house, "textgen_dead_letters") == 0

    def test_the_eta_error_is_a_histogram_with_all_its_buckets(self, house: House):
        house.run(house.submit())
        counts = [
            value(house, "textgen_eta_error_seconds_bucket", model_name="demo", le=le)
            for le in ("0.5", "1.0", "2.0", "5.0", "10.0", "30.0", "60.0", "300.0", "+Inf")
        ]
        assert counts == [1] * 9
        assert value(house, "textgen_eta_error_seconds_count", model_name="demo") == 1

    def test_only_named_tenants_are_told_apart(self, house: House):
        house.run(house.submit())
        assert value(house, "textgen_tenant_jobs_total", tenant="shop") == 1
        assert value(house, "textgen_tenant_tokens_total", tenant="shop", kind="completion") == 5
        assert not any("rival" in str(labels) for _, labels in read(house))
        assert not any(name.startswith("textgen_tenant") for name, _ in read(build()))

    def test_without_redis_it_answers_and_tells_nothing_old(self, house: House, monkeypatch: pytest.MonkeyPatch):
        house.run(house.submit())
        read(house)

        def away(_tenants: object) -> None:
            raise StoreUnavailableError("Redis does not answer.")

        monkeypatch.setattr(house.store, "figures", away)
        told = read(house)
        assert told["textgen_redis_up", frozenset()] == 0
        assert any(name == "http_requests_total" for name, _ in told)
        assert not any(name.startswith("textgen_jobs") for name, _ in told)

    def test_a_storm_of_scrapes_costs_one_operation(self, monkeypatch: pytest.MonkeyPatch):
        house = build()
        asked = []
        monkeypatch.setattr(
            house.store, "figures", lambda tenants, real=house.store.figures: asked.append(1) or real(tenants)
        )
        storm = [threading.Thread(target=house.call, args=("GET", "/metrics")) for _ in range(20)]
        for scrape in storm:
            scrape.start()
        for scrape in storm:
            scrape.join()
        assert len(asked) == 1
