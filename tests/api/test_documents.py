"""The OpenAPI document and the page that shows it."""

from __future__ import annotations

import json
import re

import jsonschema_rs
import pytest

from tests.api.house import House, build


@pytest.fixture(scope="module")
def document(shared_house: House) -> dict:
    response = shared_house.call("GET", "/openapi.json", key=None)
    assert response.mimetype == "application/json"
    return response.json


def _operations(document: dict):
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method, path, operation


def test_it_is_openapi_3_1_with_every_route(document: dict, shared_house: House) -> None:
    assert document["openapi"].startswith("3.1")
    served = {
        (method.lower(), re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", str(rule)))
        for rule in shared_house.app.url_map.iter_rules()
        for method in rule.methods or ()
        if method not in ("HEAD", "OPTIONS") and not re.match(r"/(apidocs|openapi\.json|console/|$)", str(rule))
    }
    assert {(method, path) for method, path, _ in _operations(document)} == served


def test_every_reference_leads_somewhere_and_every_schema_is_valid(document: dict) -> None:
    for reference in set(re.findall(r'"\$ref": "([^"]+)"', json.dumps(document))):
        found = document
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.meta.validate(schema)


def test_examples_are_valid(document: dict) -> None:
    checked = 0
    for schema in document["components"]["schemas"].values():
        whole = schema | {"components": document["components"]}
        for example in schema.get("examples", ()):
            jsonschema_rs.Draft202012Validator(whole).validate(example)
            checked += 1
    assert checked >= 5


def test_every_operation_says_what_it_needs_and_what_may_go_wrong(document: dict) -> None:
    names = set()
    for method, path, operation in _operations(document):
        names.add(operation["operationId"])
        assert operation["summary"]
        statuses = set(operation["responses"])
        assert "500" in statuses
        if not path.startswith("/api/"):
            assert "security" not in operation
            continue
        assert operation["security"] == [{"api_key": []}, {"bearer": []}], (method, path)
        assert {"400", "401", "403", "422", "503"} <= statuses
        if "requestBody" in operation:
            assert {"413", "415"} <= statuses
            assert list(operation["requestBody"]["content"]) == ["application/json"]
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                schema = response["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/ErrorBody"}
    assert len(names) == len(list(_operations(document)))
    schemes = document["components"]["securitySchemes"]
    assert (schemes["api_key"]["name"], schemes["bearer"]["scheme"]) == ("X-API-Key", "bearer")


def test_the_bounds_are_the_deployments() -> None:
    house = build(max_prompt_chars=123, max_new_tokens=50, max_batch_size=7, max_result_ttl_s=99, max_wait_s=3)
    house.announce(name="org/other")
    schemas = house.call("GET", "/openapi.json").json["components"]["schemas"]
    generate, batch = schemas["GenerateRequest"]["properties"], schemas["BatchRequest"]["properties"]
    text, ids = generate["prompt"]["oneOf"]
    assert (text["maxLength"], ids["maxItems"]) == (123, 123)
    assert (generate["max_length"]["maximum"], generate["max_length"]["default"]) == (50, 50)
    assert generate["result_ttl_s"]["anyOf"][0]["maximum"] == 99
    assert generate["model"]["anyOf"][0]["enum"] == ["demo", "org/other"]
    assert batch["prompts"]["items"]["oneOf"] == [text, ids]
    assert (batch["prompts"]["maxItems"], batch["requests"]["maxItems"]) == (7, 7)
    assert house.call("POST", "/api/generate", json={"prompt": "x" * 124}).status_code == 422
    assert house.call("POST", "/api/generate", json={"prompt": "x", "max_length": 51}).status_code == 422
    assert house.call("POST", "/api/generate", json={"prompt": "x", "result_ttl_s": 100}).status_code == 422
    assert house.call("POST", "/api/generate_batch", json={"prompts": ["x"] * 8}).status_code == 422
    assert house.call("POST", "/api/generate?wait=4", json={"prompt": "x"}).status_code == 422
    house.submit("x")
    assert house.store.submitted[0][1].max_length == 50


def test_the_document_says_which_adapters_and_log_probabilities_there_are() -> None:
    house = build(max_logprobs=5, token_id_prompts=False)
    fields = house.call("GET", "/openapi.json").json["components"]["schemas"]["BatchItem"]["properties"]
    assert fields["adapter"]["anyOf"][0]["pattern"]  # nobody knows yet
    assert (fields["prompt"]["type"], fields["logprobs"]["anyOf"][0]["maximum"]) == ("string", 5)
    house.announce()
    fields = house.call("GET", "/openapi.json").json["components"]["schemas"]["BatchItem"]["properties"]
    assert fields["adapter"]["anyOf"] == [{"type": "null"}]
    house.announce(adapters=("tea", "haiku"))
    fields = house.call("GET", "/openapi.json").json["components"]["schemas"]["BatchItem"]["properties"]
    assert fields["adapter"]["anyOf"][0]["enum"] == ["haiku", "tea"]


def _text(house: House, path: str) -> str:
    with house.call("GET", path, key=None) as response:  # closes the file behind it
        assert response.status_code == 200, path
        return response.text


def test_the_page_loads_nothing_from_elsewhere(shared_house: House) -> None:
    page = shared_house.call("GET", "/apidocs", key=None)
    assert page.mimetype == "text/html"
    assets = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(assets) == 4
    for asset in assets:
        assert asset.startswith("/apidocs/"), asset
        assert len(_text(shared_house, asset)) > 100
    start = _text(shared_house, "/apidocs/start.js")
    assert "http" not in page.text + start
    assert "validatorUrl: null" in start
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "http" not in policy
    sheet = _text(shared_house, "/apidocs/css/swagger-ui.css")
    assert not re.findall(r"url\(['\"]?https?:|@import", sheet)


def test_assets_stay_inside_their_folder(shared_house: House) -> None:
    for path in (
        "/apidocs/js/../../../__init__.py",
        "/apidocs/js/%2e%2e%2f__init__.py",
        "/apidocs/js/nope",
        "/apidocs/x/y",
    ):
        assert shared_house.call("GET", path).status_code == 404
