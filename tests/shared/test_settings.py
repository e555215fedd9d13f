"""Settings: read in one place, documented, and wrong ones named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shared.errors import ConfigurationError
from shared.settings import Settings, load_settings

ROOT = Path(__file__).resolve().parents[2]


def test_every_setting_is_documented_with_its_default_and_nothing_else_is():
    rows = re.findall(r"^\| `([A-Z_]+)` \| ([^|]*) \|", (ROOT / "docs/settings.md").read_text(), re.MULTILINE)
    documented = {name: default.strip().strip("`") for name, default in rows}
    assert set(documented) == {name.upper() for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        if name != "model_id":  # a path of the checkout
            assert documented[name.upper()] == shown(field.default), name


def shown(default: object) -> str:
    """A default as the table has it."""
    if default is None or default == ():
        return ""
    return str(default).removesuffix(".0") if isinstance(default, float) else str(default)


def test_only_settings_reads_the_environment():
    readers = [
        path.relative_to(ROOT)
        for room in ("api", "shared", "worker")
        for path in (ROOT / room).rglob("*.py")
        # setdefault is how a library is set up that knows the environment only
        if re.search(r"os\.(environ(?!\.setdefault\()|getenv)", path.read_text())
    ]
    assert readers == []


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ENGINE_SLOTS", "7")
    monkeypatch.setenv("CORS_ORIGINS", "https://a.example, https://b.example")
    settings = load_settings()
    assert settings.engine_slots == 7
    assert settings.cors_origins == ("https://a.example", "https://b.example")


@pytest.mark.parametrize(
    "origin",
    [
        "https://*.example.com",
        "example.com",
        "https://a.example/",
        "https://a.example/x",
        "ftp://a",
        ".*",
        "https://.*",
    ],
)
def test_an_origin_is_no_pattern(origin: str) -> None:
    with pytest.raises(ConfigurationError, match="CORS_ORIGINS"):
        load_settings(cors_origins=f"https://fine.example:8443,{origin}")


def test_any_origin_may_be_asked_for() -> None:
    assert load_settings(cors_origins="*").cors_origins == ("*",)


def test_every_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ENGINE_SLOTS", "many")
    monkeypatch.setenv("DEVICE", "toaster")
    with pytest.raises(ConfigurationError) as error:
        load_settings()
    assert "ENGINE_SLOTS" in error.value.message
    assert "DEVICE" in error.value.message


def test_the_models_public_name(tmp_path: Path):
    assert load_settings(model_name="x", model_id="a/b").public_model_name == "x"
    assert load_settings(model_id="org/name").public_model_name == "org/name"
    assert load_settings(model_id=str(tmp_path)).public_model_name == tmp_path.name
    assert load_settings(model_id="/models/only-in-the-worker/").public_model_name == "only-in-the-worker"


@pytest.mark.parametrize(
    "wrong", [{"worker_beat_s": 2.5}, {"worker_lease_s": 2.9}, {"worker_lease_s": 5, "worker_beat_s": 2}]
)
def test_a_lease_outlasts_beats(wrong: dict[str, float]):
    with pytest.raises(ConfigurationError, match=r"WORKER_LEASE_S.*three beats"):
        load_settings(**wrong)
    assert load_settings(worker_lease_s=3).worker_lease_s == 3
