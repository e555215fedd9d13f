"""Flower reads the broker's keys where the platform writes them."""

from __future__ import annotations

import runpy

import pytest

from shared.queue import make_celery
from shared.settings import load_settings


@pytest.mark.parametrize("prefix", [None, "other"])
def test_flower_looks_where_the_platform_writes(monkeypatch: pytest.MonkeyPatch, prefix: str | None) -> None:
    monkeypatch.delenv("REDIS_PREFIX", raising=False)
    if prefix is not None:
        monkeypatch.setenv("REDIS_PREFIX", prefix)
    config = runpy.run_module("smarttextgen.launcher.flower_config")
    platform = make_celery(load_settings()).conf
    key = "global_keyprefix"
    assert config["broker_transport_options"][key] == platform.broker_transport_options[key]
    assert config["accept_content"] == platform.accept_content
