"""Health tells the truth."""

from __future__ import annotations

from dataclasses import replace

from shared.errors import StoreUnavailableError
from shared.store.protocol import Fleet
from tests.api.house import House, build, error_of


def _away(*_args: object, **_more: object) -> None:
    raise StoreUnavailableError("Redis does not answer.")


def test_without_a_worker_it_is_degraded(house: House) -> None:
    house.submit()
    body = house.call("GET", "/health", key=None).json
    assert body == {
        "status": "degraded", "model": "demo", "model_status": "unavailable", "redis_status": "connected",
        "cache_status": "enabled", "api_key_status": "required", "environment": "development", "workers": 0, "couriers": 0,
        "queue_length": 1,
    }  # fmt: skip


def test_with_a_ready_worker_it_is_ok(house: House) -> None:
    house.announce()
    body = house.call("GET", "/health").json
    assert (body["status"], body["model_status"], body["workers"]) == ("ok", "ready", 1)


def test_a_draining_worker_does_not_count(house: House) -> None:
    house.announce()
    worker = house.fleet.current.workers[0]
    fleet = Fleet((replace(worker, state="draining"),), house.fleet.current.models, {})
    house.store.fleet = lambda: fleet  # type: ignore[method-assign]
    body = house.call("GET", "/health").json
    assert (body["status"], body["model_status"], body["workers"]) == ("degraded", "unavailable", 0)


def test_with_redis_away_it_is_down(house: House) -> None:
    house.announce()
    house.store.fleet = _away  # type: ignore[method-assign,assignment]
    house.store.ping = _away  # type: ignore[method-assign,assignment]
    response = house.call("GET", "/health")
    assert response.status_code == 200
    assert (response.json["status"], response.json["redis_status"], response.json["cache_status"]) == (
        "down", "unavailable", "unavailable",
    )  # fmt: skip
    ready = house.call("GET", "/readyz")
    assert (ready.status_code, error_of(ready)["code"]) == (503, "store_unavailable")
    assert ready.headers["Retry-After"]
    assert house.call("GET", "/livez").status_code == 200


def test_a_draining_process_is_alive_and_not_ready(house: House) -> None:
    assert house.call("GET", "/readyz").status_code == 200
    house.app.extensions["smarttextgen"].drain()
    assert house.call("GET", "/readyz").status_code == 503
    assert house.call("GET", "/livez").status_code == 200
    job_id = house.submit()
    assert house.call("GET", f"/api/jobs/{job_id}?wait=5").json["status"] == "queued", "waits are answered at once"


def test_what_is_configured_is_shown() -> None:
    body = build(cache_ttl_s=0, environment="staging").call("GET", "/health").json
    assert (body["cache_status"], body["environment"]) == ("disabled", "staging")


def test_a_store_that_is_away_is_a_503_everywhere(house: House) -> None:
    for name in (
        "submit", "get", "list_jobs", "cancel", "delete", "submit_batch", "get_batch", "list_batches", "batch_results",
        "cancel_batch", "delete_batch", "history", "delete_history",
    ):  # fmt: skip
        setattr(house.store, name, _away)
    house.keys.list_keys = _away  # type: ignore[method-assign,assignment]
    for method, path, body, key in (
        ("POST", "/api/generate", {"prompt": "a"}, "shop"), ("POST", "/api/generate_batch", {"prompts": ["a"]}, "shop"),
        ("PUT", "/api/jobs/a", {"prompt": "a"}, "shop"), ("GET", "/api/jobs/a", None, "shop"),
        ("GET", "/api/jobs", None, "shop"), ("POST", "/api/jobs/a/cancel", None, "shop"),
        ("DELETE", "/api/jobs/a", None, "shop"), ("GET", "/api/batches/a", None, "shop"),
        ("GET", "/api/batches", None, "shop"), ("GET", "/api/batches/a/results", None, "shop"),
        ("POST", "/api/batches/a/cancel", None, "shop"), ("DELETE", "/api/batches/a", None, "shop"),
        ("GET", "/api/history/a", None, "shop"), ("DELETE", "/api/history/a", None, "shop"),
        ("GET", "/api/admin/keys", None, "admin"),
    ):  # fmt: skip
        response = house.call(method, path, json=body, key=key) if body else house.call(method, path, key=key)
        assert (response.status_code, error_of(response)["code"]) == (503, "store_unavailable"), path
        assert response.headers["Retry-After"]
