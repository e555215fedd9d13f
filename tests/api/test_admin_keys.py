"""Keys, for administrators."""

from __future__ import annotations

import pytest

from tests.api.house import House, error_of


def _create(house: House, **fields):
    return house.call("POST", "/api/admin/keys", json={"tenant": "shop", **fields}, key="admin")


def test_a_key_is_shown_once(house: House) -> None:
    response = _create(
        house, name="backend", scopes=["generate", "admin"], requests_per_minute=5, max_queued=6, weight=3
    )
    body = response.json
    assert response.status_code == 201
    assert response.headers["Cache-Control"] == "no-store"
    assert set(body) == {
        "id",
        "key",
        "tenant",
        "name",
        "scopes",
        "prefix",
        "created_at",
        "requests_per_minute",
        "max_queued",
        "tokens_per_day",
        "weight",
    }
    assert body["key"].startswith(body["prefix"])
    assert (body["scopes"], body["requests_per_minute"], body["max_queued"]) == (["admin", "generate"], 5, 6)
    assert (body["weight"], body["tokens_per_day"]) == (3, None)
    listed = house.call("GET", "/api/admin/keys", headers={"X-API-Key": body["key"]})
    assert body["key"] not in listed.text
    assert listed.json["data"][0]["id"] == body["id"], "newest first"
    assert len(listed.json["data"]) == 4
    assert body["key"] not in repr(house.written())


def test_the_least_that_makes_a_key(house: House) -> None:
    body = _create(house).json
    assert (body["scopes"], body["name"], body["requests_per_minute"]) == (["generate"], "", None)


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("tenant", "", "tenant"), ("tenant", "Shop", "tenant"), ("tenant", "a:b", "tenant"), ("tenant", "x" * 65, "tenant"),
        ("tenant", None, "tenant"), ("tenant", "a\n", "tenant"), ("name", "x" * 129, "name"), ("name", "\0", "name"),
        ("name", None, "name"), ("scopes", [], "scopes"), ("scopes", ["root"], "scopes.0"), ("scopes", "admin", "scopes"),
        ("scopes", ["admin"] * 3, "scopes"), ("requests_per_minute", 0, "requests_per_minute"),
        ("requests_per_minute", "5", "requests_per_minute"), ("max_queued", -1, "max_queued"),
        ("tokens_per_day", 0, "tokens_per_day"), ("weight", 0, "weight"), ("weight", 1001, "weight"),
        ("weight", 1.5, "weight"), ("key", "mine", "key"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(shared_house: House, field: str, value: object, param: str) -> None:
    before = shared_house.written()
    response = _create(shared_house, **{field: value})
    assert (response.status_code, error_of(response)["param"]) == (422, param)
    assert shared_house.written() == before


def test_a_revoked_key_stops(house: House) -> None:
    body = _create(house).json
    headers = {"X-API-Key": body["key"]}
    assert house.call("GET", "/api/jobs", headers=headers).status_code == 200
    path = f"/api/admin/keys/{body['id']}"
    assert house.call("DELETE", path, key="admin").status_code == 204
    assert house.call("GET", "/api/jobs", headers=headers).status_code == 401
    assert house.call("DELETE", path, key="admin").status_code == 404
    assert house.call("POST", f"{path}/rotate", key="admin").status_code == 404


def test_a_rotated_key_has_another_secret(house: House) -> None:
    body = _create(house, requests_per_minute=9).json
    assert house.call("GET", "/api/jobs", headers={"X-API-Key": body["key"]}).status_code == 200
    rotated = house.call("POST", f"/api/admin/keys/{body['id']}/rotate", key="admin")
    assert (rotated.status_code, rotated.headers["Cache-Control"]) == (200, "no-store")
    assert (rotated.json["id"], rotated.json["requests_per_minute"]) == (body["id"], 9)
    assert house.call("GET", "/api/jobs", headers={"X-API-Key": body["key"]}).status_code == 401
    assert house.call("GET", "/api/jobs", headers={"X-API-Key": rotated.json["key"]}).status_code == 200


def test_lists_are_pages(house: House) -> None:
    made = [_create(house, name=str(number)).json["id"] for number in range(5)]
    seen: list[str] = []
    query = "limit=2"
    while query:
        page = house.call("GET", f"/api/admin/keys?{query}", key="admin").json
        seen += [key["id"] for key in page["data"]]
        query = f"limit=2&cursor={page['next_cursor']}" if page["has_more"] else ""
    assert seen[:5] == made[::-1]
    assert len(seen) == len(set(seen)) == 8
