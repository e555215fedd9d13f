"""Requests a minute, and jobs waiting."""

from __future__ import annotations

from tests.api.house import House, build, error_of


def _key(house: House, **limits: int) -> dict[str, str]:
    answer = house.call("POST", "/api/admin/keys", json={"tenant": "shop", **limits}, key="admin")
    return {"X-API-Key": answer.json["key"]}


def test_every_submit_says_what_is_left(house: House) -> None:
    headers = _key(house, requests_per_minute=3)
    bodies = [("POST", "/api/generate", {"prompt": "a"}), ("POST", "/api/generate_batch", {"prompts": ["a", "b"]}),
              ("PUT", "/api/jobs/x", {"prompt": "a"})]  # fmt: skip
    for left, (method, path, body) in zip((2, 1, 0), bodies, strict=True):
        response = house.call(method, path, json=body, headers=headers)
        assert response.status_code in (201, 202)
        assert response.headers["x-ratelimit-limit-requests"] == "3"
        assert response.headers["x-ratelimit-remaining-requests"] == str(left)
        assert response.headers["x-ratelimit-reset-requests"].endswith("s")
        assert response.headers["RateLimit"].startswith(f'"default";r={left};t=')
        assert response.headers["RateLimit-Policy"] == '"default";q=3;w=60'


def test_beyond_the_limit_nothing_is_taken_in(house: House) -> None:
    headers = _key(house, requests_per_minute=1)
    assert house.call("POST", "/api/generate", json={"prompt": "a"}, headers=headers).status_code == 202
    before = house.written()
    response = house.call("POST", "/api/generate", json={"prompt": "a"}, headers=headers)
    error = error_of(response)
    assert (response.status_code, error["code"], error["type"]) == (429, "rate_limited", "rate_limit_error")
    assert 1 <= int(response.headers["Retry-After"]) <= 60
    assert response.headers["x-ratelimit-remaining-requests"] == "0"
    assert response.headers["RateLimit"].startswith('"default";r=0;t=')
    assert house.written() == before
    assert house.call("GET", "/api/jobs", headers=headers).status_code == 200, "reading is not limited"
    assert house.call("POST", "/api/generate", json={"prompt": "a"}).status_code == 202, "another key"


def test_keys_without_limits_have_the_deployments() -> None:
    house = build(default_requests_per_minute=2, default_max_queued=1)
    first = house.call("POST", "/api/generate", json={"prompt": "a"})
    assert first.headers["RateLimit-Policy"] == '"default";q=2;w=60'
    response = house.call("POST", "/api/generate", json={"prompt": "a"})
    assert (response.status_code, error_of(response)["code"]) == (429, "queue_limit")


def test_a_replay_costs_nothing(house: House) -> None:
    headers = _key(house, requests_per_minute=1) | {"Idempotency-Key": "k"}
    for _ in range(3):
        assert house.call("POST", "/api/generate", json={"prompt": "a"}, headers=headers).status_code == 202
