"""Conversations, modes and models."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from shared.modes import load_modes
from shared.schemas.text import iso, milliseconds
from tests.api.house import House, build


@pytest.mark.parametrize(
    "user", ["ann", "a b", "a?b#c&d=e%f", "使用者 😀", "a..b", "ann@example.com:1", "%2F", "a;b", "é" * 128]
)
def test_any_user_id_works_in_the_path(house: House, user: str) -> None:
    for prompt in ("one", "two"):
        house.run(house.submit(prompt, user_id=user), prompt.upper())
    path = f"/api/history/{quote(user, safe='')}"
    body = house.call("GET", path).json
    assert body["user_id"] == user
    assert [(turn["input"], turn["output"]) for turn in body["history"]] == [("one", "ONE"), ("two", "TWO")]
    assert set(body["history"][0]) == {"input", "output", "mode", "job_id", "created_at"}
    assert house.call("DELETE", path).status_code == 204
    assert house.call("GET", path).json["history"] == []
    assert house.call("DELETE", path).status_code == 204


def test_a_user_without_a_conversation(house: House) -> None:
    assert house.call("GET", "/api/history/nobody").json == {"user_id": "nobody", "history": []}


def test_modes(house: House) -> None:
    body = house.call("GET", "/api/modes").json
    modes = load_modes()
    assert [mode["name"] for mode in body["data"]] == list(modes.by_name)
    assert all(mode["description"] for mode in body["data"])
    assert (body["next_cursor"], body["has_more"]) == (None, False)


def test_a_configured_mode_is_there_for_everyone(tmp_path) -> None:
    path = tmp_path / "modes.toml"
    bundled = load_modes().by_name["general"].templates["en"]
    table = "\n".join(
        f'[haiku.{language}]\nsystem = "s"\ntemplate = "{{system}} {{input}}"\nturn = "{{input}} {{output}}"'
        for language in ("en", "zh-Hant")
    )
    path.write_text(f'[haiku]\ndescription = "Seventeen syllables."\n{table}\n')
    assert bundled
    house = build(modes_file=path)
    assert [mode["name"] for mode in house.call("GET", "/api/modes").json["data"]] == ["haiku"]
    house.submit()  # the only mode is the default
    assert house.store.submitted[0][1].mode == "haiku"
    unknown = house.call("POST", "/api/generate", json={"prompt": "a", "mode": "general"})
    assert (unknown.status_code, "haiku" in unknown.json["error"]["message"]) == (400, True)
    document = house.call("GET", "/openapi.json").json
    assert document["components"]["schemas"]["GenerateRequest"]["properties"]["mode"]["enum"] == ["haiku"]


def test_models(house: House) -> None:
    first = house.call("GET", "/api/models").json["data"]
    assert [(model["name"], model["default"], model["status"]) for model in first] == [("demo", True, "unavailable")]
    house.announce()
    house.announce(name="org/other", context_length=64)
    house.submit()
    house.fleet.refresh()
    demo, other = house.call("GET", "/api/models").json["data"]
    assert (demo["status"], demo["workers"], demo["queue_length"], demo["context_length"]) == ("ready", 1, 1, 1024)
    assert (other["name"], other["default"], other["context_length"]) == ("org/other", False, 64)
    house.submit(model="org/other")
    assert house.store.submitted[-1][1].model == "org/other"


def test_a_model_announced_just_now_is_found(house: House) -> None:
    fleet_of = house.fleet.refresh
    house.fleet.refresh = lambda: house.fleet.current  # type: ignore[method-assign]
    house.announce(name="new")
    house.fleet.refresh = fleet_of  # type: ignore[method-assign]
    house.submit(model="new")


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:01.5z", 1500),
        ("1970-01-01T01:00:00.0009+01:00", 0),
        ("1969-12-31T23:59:60Z", 0),
        ("1969-12-31T23:00:00-01:00", 0),
        ("1969-12-31T23:59:59.999Z", -1),
    ],
)
def test_times_are_read(text: str, moment: int) -> None:
    assert milliseconds(text) == moment


def test_times_are_written() -> None:
    assert iso(1_795_348_800_007) == "2026-11-22T12:00:00.007Z"
    assert milliseconds(iso(1_795_348_800_007)) == 1_795_348_800_007
