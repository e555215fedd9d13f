"""A model that was trained anew in its folder, or an adapter, goes by another name: no result of the old one is taken for its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.engine.conftest import small_config
from worker.engine.contents import contents


@pytest.fixture
def folder(folders: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(folders["gpt2"], tmp_path / "model")


def _train(weights: Path) -> None:
    tensors = load_file(weights)
    save_file({name: tensor * 1.001 for name, tensor in tensors.items()}, weights, metadata={"format": "pt"})


def test_an_engine_tells_weights_apart(folder: Path, new_engine: Callable[..., Any]) -> None:
    before = new_engine("gpt2", model_id=str(folder)).info
    for file in folder.iterdir():
        os.utime(file, (1, 1))
    assert new_engine("gpt2", model_id=str(folder)).info == before, (
        "the same files, copied elsewhere or touched, are the same"
    )
    _train(folder / "model.safetensors")
    after = new_engine("gpt2", model_id=str(folder)).info
    assert after.contents != before.contents
    assert after.system_fingerprint != before.system_fingerprint


def test_an_adapter_and_its_name_count(folder: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(b"1")
    config = small_config(folder, adapters=(("legal", str(adapter)),))
    found = {contents(small_config(folder), "local"), contents(config, "local")}
    weights.write_bytes(b"2")
    found.add(contents(config, "local"))
    found.add(contents(small_config(folder, adapters=(("medical", str(adapter)),)), "local"))
    assert len(found) == 4


def test_a_large_file_is_told_by_pieces_and_size(folder: Path) -> None:
    large = folder / "more.safetensors"
    data = bytearray(3 * 1024**2)
    large.write_bytes(data)
    found = {contents(small_config(folder), "local")}
    for change in (slice(0, 1), slice(-1, None)):
        data[change] = b"x"
        large.write_bytes(data)
        found.add(contents(small_config(folder), "local"))
    large.write_bytes(data + b"\0")
    found.add(contents(small_config(folder), "local"))
    assert len(found) == 4


def test_a_model_of_the_hub_goes_by_its_revision() -> None:
    config = small_config(Path("maker/model"))
    assert contents(config, "c0ffee") == contents(config, "c0ffee") != contents(config, "decaf")
