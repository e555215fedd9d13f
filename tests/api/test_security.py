"""What one tenant may learn of another, and what one request may cost."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest

from api.bodies import LargeBodies
from api.errors import LargeBodiesError
from api.parsing import has_more_values
from tests.api.house import House, build, error_of

# --- tenants

PARAMETERS = ("job_id", "batch_id", "endpoint_id", "delivery_id")
MADE_UP = {"job_id": "job_x", "batch_id": "batch_x", "endpoint_id": "we_x", "delivery_id": "dlv_x"}


def _things(house: House) -> list[dict[str, str]]:
    """Everything of the shop's that has an id, in several states."""
    hook = {"webhook": "https://hooks.example.com/"}
    done, running, waiting = house.submit(user_id="ann", **hook), house.submit(), house.submit()
    house.run(done)
    house.claim(running)
    batch = house.call("POST", "/api/generate_batch", json={"prompts": ["a", "b"]}).json["id"]
    endpoint = house.call("POST", "/api/webhooks", json={"url": "https://hooks.example.com/"}).json["id"]
    delivery = house.call("POST", f"/api/webhooks/{endpoint}/test").json["id"]
    own = {"batch_id": batch, "endpoint_id": endpoint, "delivery_id": delivery}
    return [{**own, "job_id": job_id} for job_id in (done, running, waiting)]


def _routes(house: House) -> list[tuple[str, str]]:
    """Every route that names one of them."""
    return sorted(
        (method, rule.rule)
        for rule in house.app.url_map.iter_rules()
        if rule.rule.startswith("/api/") and "/admin/" not in rule.rule and rule.arguments & set(PARAMETERS)
        for method in (rule.methods or set()) - {"OPTIONS"}
    )


def _seen(house: House, method: str, rule: str, ids: dict[str, str]) -> tuple[int, str]:
    """What the rival is answered, without what is different with each request or is its own name for the thing."""
    path = rule
    for name, value in ids.items():
        path = path.replace(f"<{name}>", value)
    body: dict[str, Any] = (
        {"json": {"prompt": "mine"}} if method == "PUT" else {"json": {}} if method == "PATCH" else {}
    )
    response = house.call(method, path, key="rival", **body)
    text = response.text
    if method == "PUT":  # the rival's own job under that name, which nobody else sees
        assert response.status_code in (200, 201)
        assert house.call("DELETE", path, key="rival").status_code == 204
        return 0, ""
    return response.status_code, text


def test_what_is_another_tenants_is_as_if_it_were_not_there(house: House) -> None:
    things = _things(house)
    routes = _routes(house)
    assert len(routes) > 20
    before = {key: value for key, value in house.written()[0].items() if ":shop" in key}
    for method, rule in routes:
        nothing = _seen(house, method, rule, MADE_UP)
        assert nothing[0] in (0, 404), (method, rule)
        for ids in things:
            assert _seen(house, method, rule, ids) == nothing, (method, rule)
    after = {key: value for key, value in house.written()[0].items() if ":shop" in key}
    assert after == before


def test_the_lists_of_another_tenant_stay_empty(house: House) -> None:
    _things(house)
    for path in ("/api/jobs", "/api/jobs?user_id=ann", "/api/batches", "/api/webhooks/default/deliveries"):
        assert house.call("GET", path).json["data"] or "deliveries" in path, path
        assert house.call("GET", path, key="rival").json["data"] == [], path
    assert [one["id"] for one in house.call("GET", "/api/webhooks", key="rival").json["data"]] in ([], ["default"])
    assert house.call("GET", "/api/history/ann").json["history"]
    assert house.call("GET", "/api/history/ann", key="rival").json["history"] == []
    assert house.call("DELETE", "/api/history/ann", key="rival").status_code == 204
    assert house.call("GET", "/api/history/ann").json["history"]
    usage = house.call("GET", "/api/usage?group_by=none", key="rival").text
    assert '"jobs":1' in house.call("GET", "/api/usage?group_by=none").text.replace(" ", "")
    assert '"jobs":1' not in usage.replace(" ", "")
    secret = "/api/webhooks/default/secret"
    assert house.call("GET", secret).json["secret"] != house.call("GET", secret, key="rival").json["secret"]


def test_another_tenants_cursor_is_none(house: House) -> None:
    mine, theirs = (
        house.call("POST", "/api/generate_batch", key=key, json={"prompts": ["a"]}).json["id"]
        for key in ("shop", "rival")
    )
    cursor = house.call("GET", f"/api/batches/{mine}/results").headers["X-Next-Cursor"]
    assert house.call("GET", f"/api/batches/{mine}/results?cursor={cursor}").status_code == 200
    response = house.call("GET", f"/api/batches/{theirs}/results?cursor={cursor}", key="rival")
    assert (response.status_code, error_of(response)["code"]) == (400, "invalid_cursor")


def test_an_idempotency_key_is_a_tenants_own(house: House) -> None:
    headers = {"Idempotency-Key": "same"}
    answers = [
        house.call("POST", "/api/generate", key=key, json={"prompt": "a"}, headers=headers) for key in ("shop", "rival")
    ]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].json["id"] != answers[1].json["id"]
    assert "Idempotent-Replayed" not in answers[1].headers


@pytest.mark.parametrize(
    "user_id", ["a:b", "a|b", "{a}:b", "a{b", "*", "a b", "%00", "ä\u200bb", "__proto__", "shop:ann"]
)
def test_ids_with_separators_name_only_themselves(house: House, user_id: str) -> None:
    house.run(house.submit("mine", user_id=user_id))
    assert len(house.call("GET", "/api/jobs", query_string={"user_id": user_id}).json["data"]) == 1
    client = house.client
    path = f"/api/history/{user_id.replace('%', '%25')}"
    assert len(client.get(path, headers={"X-API-Key": house.shop}).json["history"]) == 1
    for other in (
        user_id[:-1] or "x",
        user_id + "x",
        user_id.split(":", maxsplit=1)[0],
        user_id.split("|", maxsplit=1)[0],
    ):
        if other != user_id:
            assert house.store.history("shop", other) == ()
    assert house.store.history("rival", user_id) == ()


# --- what a request may cost


@pytest.fixture(scope="module")
def small_house() -> House:
    return build(api_max_batch_bytes=2**20)  # 16,384 values


@pytest.mark.parametrize("item", [b"[]", b"{}", b"1", b'""', b"null", b'{"a":1}', b"[[1]]"])
def test_a_body_of_very_many_values_is_not_even_parsed(small_house: House, item: bytes) -> None:
    house = small_house
    before = house.written()
    body = b'{"prompts":[' + b",".join([item] * 20_000) + b"]}"
    response = house.call("POST", "/api/generate_batch", data=body, content_type="application/json")
    assert (response.status_code, error_of(response)["code"]) == (413, "payload_too_large")
    assert "values" in error_of(response)["message"]
    assert house.written() == before


def test_the_bound_follows_the_route(house: House) -> None:
    for path, items, status in (("/api/generate", 40_000, 413), ("/api/generate", 10_000, 422), ("/api/generate_batch", 40_000, 422)):  # fmt: skip
        body = b'{"prompts":[' + b",".join([b"[]"] * items) + b"]}"
        assert house.call("POST", path, data=body, content_type="application/json").status_code == status


@pytest.mark.parametrize(
    ("body", "values"),
    [
        (b"[1,2,3]", 3), (b'["a,b,c"]', 1), (b'["a\\",b",2]', 2), (b'["\\\\",2]', 2), (b'{"a":[1,{"b":2}]}', 4),
        (b'["', 1), (b'["a\\', 1), (b'["' + b'\\"' * 50, 1), (b"[" * 9, 9), (b"", 0), (b'"[[["', 0),
    ],
)  # fmt: skip
def test_values_are_counted_outside_of_strings(body: bytes, values: int) -> None:
    """One for each comma, bracket and brace: no fewer than there are values, and no more than twice."""
    assert not has_more_values(body, values)
    assert values == 0 or has_more_values(body, values - 1)


@pytest.mark.parametrize("piece", [b'\\"', b'"', b'",', b"\\", b'"\\', b",", b"[", b'"a",'])
def test_counting_is_linear(piece: bytes) -> None:
    """Backtracking would take hours here, and a body of the attacker's choice would hold the process."""
    started = time.process_time()
    has_more_values(b'["' + piece * (1_000_000 // len(piece)) + b"," * 300_000, 200_000)
    assert time.process_time() - started < 20


def test_prompts_full_of_commas_are_prompts() -> None:
    house = build()
    body = {"prompts": ["a,[{" * 2_000] * 200}
    assert house.call("POST", "/api/generate_batch", json=body).status_code == 202


def test_a_key_holds_so_much_and_the_process_twice() -> None:
    bodies = LargeBodies(100, 10)
    assert not bodies.take("a", 10), "small ones do not count"
    assert bodies.take("a", 50)
    assert bodies.take("a", 50)
    with pytest.raises(LargeBodiesError):
        bodies.take("a", 11)
    assert bodies.take("b", 95)
    with pytest.raises(LargeBodiesError):
        bodies.take("c", 11)
    assert not bodies.take("c", 10)
    bodies.give_back("a", 50)
    assert bodies.take("c", 11)
    assert bodies.take("a", 39)
    with pytest.raises(LargeBodiesError):
        bodies.take("a", 11)


def test_large_bodies_of_a_key_wait_for_each_other() -> None:
    house = build(api_max_body_bytes=2048, api_max_batch_bytes=6000)
    large = {"prompts": ["x" * 3000]}
    statuses: list[int] = []
    first = threading.Thread(
        target=lambda: statuses.append(house.call("POST", "/api/generate_batch?wait=5", json=large).status_code)
    )
    first.start()
    while not house.store.submitted:
        time.sleep(0.01)
    response = house.call("POST", "/api/generate_batch", json=large)
    assert (response.status_code, error_of(response)["code"]) == (503, "large_bodies")
    assert response.headers["Retry-After"]
    assert house.call("POST", "/api/generate_batch", json={"prompts": ["small"]}).status_code == 202
    assert house.call("POST", "/api/generate_batch", key="rival", json=large).status_code == 202
    house.run(house.store.submitted[0][0].id)
    first.join()
    assert statuses == [200]
    assert house.call("POST", "/api/generate_batch", json=large).status_code == 202, "the place was given back"
    for prompt, status in (("\0" * 600, 422), ("x" * 9000, 413)) * 2:  # also by those that are refused
        assert house.call("POST", "/api/generate_batch", json={"prompts": [prompt]}).status_code == status
    assert house.call("POST", "/api/generate_batch", json=large).status_code == 202


# --- exactness


def test_large_numbers_and_odd_text_come_back_as_they_were(house: House) -> None:
    """Records go through Lua, whose numbers are doubles and whose JSON is another library's."""
    odd = "\x7f\x01\u2028\ufeff\U0001f600\\u0000 \\ud800 ' \" {} : | %s \u202e"
    for seed in (2**53 - 1, 2**53 + 1, 2**63 - 1):
        job_id = house.submit(odd, seed=seed, metadata={odd[:20]: odd}, user_id="ann", stop=[odd])
        spec = house.store.submitted[-1][1]
        assert (spec.seed, spec.prompt) == (seed, odd)
        house.run(job_id, odd)
        shown = house.call("GET", f"/api/jobs/{job_id}").json
        assert shown["output"] == odd
        assert shown["metadata"] == {odd[:20]: odd}
        assert house.call("GET", "/api/history/ann").json["history"][-1]["input"] == odd
        stored = json.loads(house.store.client.hget(f"{house.store.prefix}job:shop:{job_id}", "spec"))
        assert stored["seed"] == seed
