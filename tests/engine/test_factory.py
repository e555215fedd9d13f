"""What the factory refuses, with a sentence that says what to do."""

from __future__ import annotations

import sys

import pytest

from shared.errors import ConfigurationError
from worker.engine.factory import EngineConfig, build_engine


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_a_model_must_be_named(engine: str) -> None:
    with pytest.raises(ConfigurationError, match="MODEL_ID"):
        build_engine(EngineConfig(engine=engine))


def test_without_vllm_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("worker.engine.vllm_")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigurationError, match=r"pip install vllm.*VLLM_PACKAGE") as caught:
        build_engine(EngineConfig(engine="vllm", model_id="anything"))
    assert caught.value.param == "engine"


def test_an_engine_that_does_not_exist() -> None:
    with pytest.raises(ConfigurationError, match="'transformers', 'vllm' or 'echo'"):
        build_engine(EngineConfig(engine="warp"))
