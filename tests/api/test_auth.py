"""Keys, scopes, and what the process remembers of them."""

from __future__ import annotations

import pytest

from api.identity import KeyMemory
from shared.errors import StoreUnavailableError
from shared.keys import NewKey, RedisKeyStore
from shared.store.memory import MemoryStore
from tests.api.house import House, build, error_of

PROTECTED = [
    ("POST", "/api/generate"), ("POST", "/api/generate_batch"), ("PUT", "/api/jobs/a"), ("GET", "/api/jobs/a"),
    ("GET", "/api/jobs"), ("POST", "/api/jobs/a/cancel"), ("DELETE", "/api/jobs/a"), ("GET", "/api/batches/a"),
    ("GET", "/api/history/a"), ("DELETE", "/api/history/a"), ("GET", "/api/modes"), ("GET", "/api/models"),
    ("POST", "/api/admin/keys"), ("GET", "/api/admin/keys"), ("DELETE", "/api/admin/keys/a"),
    ("POST", "/api/admin/keys/a/rotate"), ("POST", "/api/jobs/a/retry"), ("GET", "/api/usage"),
    ("GET", "/api/admin/queues"), ("POST", "/api/admin/queues/a/pause"), ("POST", "/api/admin/queues/a/resume"),
    ("POST", "/api/admin/queues/a/purge"), ("GET", "/api/admin/workers"), ("GET", "/api/admin/dead_letters"),
    ("POST", "/api/admin/dead_letters/a/a/requeue"), ("GET", "/api/batches"), ("GET", "/api/batches/a/results"),
    ("POST", "/api/batches/a/cancel"), ("DELETE", "/api/batches/a"), ("GET", "/api/jobs/a/stream"),
    ("POST", "/api/admin/workers/a/drain"), ("POST", "/api/webhooks"), ("GET", "/api/webhooks"),
    ("GET", "/api/webhooks/a"), ("PATCH", "/api/webhooks/a"), ("DELETE", "/api/webhooks/a"),
    ("GET", "/api/webhooks/default/secret"), ("POST", "/api/webhooks/a/rotate_secret"), ("POST", "/api/webhooks/a/test"),
    ("GET", "/api/webhooks/a/deliveries"), ("POST", "/api/webhooks/a/deliveries/a/redeliver"),
]  # fmt: skip


def test_the_table_has_every_route_that_needs_a_key(house: House) -> None:
    """A new route has to be added above, or it is not tested."""
    rules = {
        (m, str(r)) for r in house.app.url_map.iter_rules() for m in (r.methods or ()) if str(r).startswith("/api/")
    }
    documented = {(m, r) for m, r in rules if m not in ("HEAD", "OPTIONS")}
    assert len(documented) == len(PROTECTED)


@pytest.mark.parametrize(("method", "path"), PROTECTED)
@pytest.mark.parametrize(
    "headers",
    [{}, {"X-API-Key": "stg_wrong"}, {"X-API-Key": ""}, {"X-API-Key": "x" * 9000}, {"Authorization": "Bearer stg_wrong"},
     {"Authorization": "Basic c2hvcDp4"}, {"Authorization": "Bearer"}, {"X-API-Key": "\xfc"}],
    ids=str,
)  # fmt: skip
def test_without_a_valid_key_nothing_works(
    shared_house: House, method: str, path: str, headers: dict[str, str]
) -> None:
    before = shared_house.written()
    response = shared_house.call(method, path, key=None, headers=headers, data=b"{", content_type="text/plain")
    error = error_of(response)
    assert (response.status_code, error["code"], error["type"]) == (401, "invalid_api_key", "authentication_error")
    assert response.headers["WWW-Authenticate"].startswith("Bearer")
    assert shared_house.written() == before


@pytest.mark.parametrize(("method", "path"), PROTECTED)
def test_a_key_without_the_scope_is_refused(shared_house: House, method: str, path: str) -> None:
    if path in ("/api/modes", "/api/models"):
        assert shared_house.call(method, path, key="admin").status_code == 200
        return
    before = shared_house.written()
    role = "shop" if "admin" in path else "admin"
    response = shared_house.call(method, path, key=role)
    assert (response.status_code, error_of(response)["code"]) == (403, "insufficient_scope")
    assert shared_house.written() == before


def test_both_headers_are_equal(house: House) -> None:
    for headers in (
        {"X-API-Key": house.shop}, {"Authorization": f"Bearer {house.shop}"}, {"Authorization": f"bearer  {house.shop}"}
    ):  # fmt: skip
        assert house.call("GET", "/api/modes", key=None, headers=headers).status_code == 200


def test_public_routes_need_no_key(house: House) -> None:
    for path in ("/health", "/livez", "/readyz", "/openapi.json", "/apidocs"):
        assert house.call("GET", path, key=None).status_code == 200


def test_a_revoked_key_cannot_submit_although_it_is_remembered(house: House) -> None:
    assert house.call("GET", "/api/modes").status_code == 200
    key = next(key for key in house.keys.list_keys() if key.tenant == "shop")
    house.keys.revoke(key.id)  # behind the process's back, as another process does
    assert house.call("GET", "/api/modes").status_code == 200, "the memory of some seconds"
    response = house.call("POST", "/api/generate", json={"prompt": "a"})
    assert (response.status_code, error_of(response)["code"]) == (401, "invalid_api_key")
    assert house.call("GET", "/api/modes").status_code == 401, "the memory was corrected"


def test_an_outage_is_no_401(house: House) -> None:
    def away(secret: str) -> None:
        raise StoreUnavailableError("Redis does not answer.")

    house.keys.find = away  # type: ignore[method-assign,assignment]
    response = house.call("GET", "/api/modes")
    assert (response.status_code, error_of(response)["code"]) == (503, "store_unavailable")
    assert response.headers["Retry-After"]


class CountingKeys(RedisKeyStore):
    def __init__(self) -> None:
        store = MemoryStore()
        super().__init__(store.client, store.prefix)
        self.asked = 0

    def find(self, secret: str):
        self.asked += 1
        return super().find(secret)


def test_the_memory_asks_once_in_a_while() -> None:
    keys, now = CountingKeys(), [0.0]
    memory = KeyMemory(keys, 5.0, clock=lambda: now[0])
    key, secret = keys.create(NewKey("shop"))
    assert [memory.find(secret) for _ in range(3)] == [key] * 3
    assert keys.asked == 1
    now[0] = 5.1
    memory.find(secret)
    assert keys.asked == 2
    assert [memory.find("wrong") for _ in range(3)] == [None] * 3
    assert keys.asked == 3
    now[0] = 6.2
    memory.find("wrong")
    assert keys.asked == 4
    memory.forget(key.id)
    memory.find(secret)
    assert keys.asked == 5


def test_the_memory_is_bounded_and_holds_no_secret() -> None:
    keys = CountingKeys()
    memory = KeyMemory(keys, 5.0, size=10)
    key, secret = keys.create(NewKey("shop"))
    memory.find(secret)
    for number in range(100):
        memory.find(f"guess {number}")
    assert len(memory._unknown) == 10
    asked = keys.asked
    assert memory.find(secret) == key
    assert keys.asked == asked, "guesses do not push real keys out"
    assert secret not in repr(vars(memory))


def test_no_memory_at_all() -> None:
    house = build(api_key_cache_s=0)
    assert house.call("GET", "/api/modes").status_code == 200
    house.keys.revoke(next(key.id for key in house.keys.list_keys() if key.tenant == "shop"))
    assert house.call("GET", "/api/modes").status_code == 401
