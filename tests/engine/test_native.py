"""The C++ kernel against torch, and every way of having to do without it."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest
import torch

from tests.engine.conftest import FAMILIES, greedy, run, small_config
from worker.engine import native
from worker.engine.factory import build_engine
from worker.engine.native import decode
from worker.engine.native.decode import DecodeAttention


def _kernel() -> DecodeAttention | None:
    library = native.load(torch.backends.cpu.get_cpu_capability())
    return None if library is None else decode.checked(library)


needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="there is no C++ compiler here"
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / ".cache" / "smarttextgen" / "native"


@needs_compiler
@pytest.mark.parametrize("window", [None, 1, 7, 64])
@pytest.mark.parametrize(("heads", "key_heads", "dim"), [(4, 4, 16), (6, 2, 64), (5, 1, 20)])
def test_computes_what_torch_computes(heads: int, key_heads: int, dim: int, window: int | None) -> None:
    kernel = _kernel()
    assert kernel is not None
    torch.manual_seed(heads)
    rows, longest = 9, 70
    # As the model hands them over: heads before tokens, so that neighbouring rows are not neighbours in memory.
    query = torch.randn(1, heads, rows + 3, dim)[0, :, :rows].transpose(0, 1)
    keys, values = (
        torch.randn(rows + 2, key_heads, longest, dim) * 3,
        torch.randn(rows + 2, key_heads, longest, dim + 4),
    )
    positions = torch.tensor([0, 1, 6, 7, 8, 30, 63, 64, 69])
    out = torch.empty(rows, heads, dim + 4)
    kernel(out, query, keys, values, positions, dim**-0.5, window)
    at = torch.arange(longest)
    seen = at <= positions[:, None]
    if window:
        seen &= at > positions[:, None] - window
    expected = torch.nn.functional.scaled_dot_product_attention(
        query[:, :, None], keys[:rows], values[:rows], attn_mask=seen[:, None, None], enable_gqa=True
    )
    torch.testing.assert_close(out, expected[:, :, 0], atol=2e-6, rtol=1e-5)


@needs_compiler
def test_a_row_gets_the_same_bits_whoever_is_beside_it() -> None:
    kernel = _kernel()
    assert kernel is not None
    torch.manual_seed(3)
    query, keys, values = torch.randn(8, 4, 32), torch.randn(8, 2, 50, 32), torch.randn(8, 2, 50, 32)
    positions = torch.randint(0, 50, (8,))
    together = torch.empty(8, 4, 32)
    kernel(together, query, keys, values, positions, 0.2, None)
    for row in range(8):
        alone, one = torch.empty(1, 4, 32), slice(row, row + 1)
        kernel(alone, query[one], keys[one], values[one], positions[one], 0.2, None)
        assert torch.equal(alone[0], together[row])


@needs_compiler
def test_nan_in_a_row_comes_out_as_nan_of_that_row_alone() -> None:
    kernel = _kernel()
    assert kernel is not None
    query, keys, values = torch.randn(2, 2, 16), torch.randn(2, 2, 20, 16), torch.randn(2, 2, 20, 16)
    keys[1, :, 5] = torch.nan
    out = torch.empty(2, 2, 16)
    kernel(out, query, keys, values, torch.tensor([19, 19]), 0.25, None)
    assert out[0].isfinite().all()
    assert out[1].isnan().all()


@needs_compiler
@pytest.mark.parametrize("family", FAMILIES)
def test_an_engine_says_the_same_with_it_and_without(family: str, folders: dict[str, Path]) -> None:
    answers = []
    for native_kernels in (True, False):
        engine = build_engine(small_config(folders[family], native_kernels=native_kernels))
        engine.start()
        assert (engine._loop.model.runner.kernel is not None) == native_kernels  # type: ignore[attr-defined]  # inside
        answers.append(run(engine, tuple(range(20, 60)), greedy(60)).completions[0].token_ids)
        engine.shutdown()
    assert answers[0] == answers[1]


@needs_compiler
def test_is_built_once_and_kept_where_nobody_else_may_write(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert native.load("DEFAULT") is not None
    (built,) = cache.iterdir()
    assert built.name == native.library_name("DEFAULT")
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    monkeypatch.setattr(native, "build", None)  # a second build would raise
    assert native.load("DEFAULT") is not None


@needs_compiler
def test_a_cache_that_others_may_write_to_is_not_trusted(cache: Path) -> None:
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    (cache / native.library_name("DEFAULT")).write_bytes(b"somebody's code")
    assert native.load("DEFAULT") is not None
    assert (cache / native.library_name("DEFAULT")).read_bytes() == b"somebody's code"


@needs_compiler
def test_what_is_ready_is_taken_from_its_folder(cache: Path, tmp_path: Path) -> None:
    native.build(tmp_path / "ready", "DEFAULT")
    assert native.load("DEFAULT", str(tmp_path / "ready")) is not None
    assert not any(cache.iterdir())


@needs_compiler
@pytest.mark.usefixtures("cache")
def test_the_smallest_numbers_stay_what_they_are() -> None:
    assert native.load("DEFAULT") is not None
    smallest = torch.tensor([1e-310], dtype=torch.float64)
    assert float(smallest * 0.5) > 0, "the library set the processor to flush them to zero"


@needs_compiler
def test_another_source_is_another_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = native.library_name("DEFAULT")
    assert native.library_name("AVX2") != before or not native._MARCH
    changed = tmp_path / "x.cpp"
    changed.write_text("// nothing")
    monkeypatch.setattr(native, "_SOURCE", changed)
    assert native.library_name("DEFAULT") != before


@pytest.mark.usefixtures("cache")
def test_without_a_compiler_torch_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    assert _kernel() is None


@needs_compiler
def test_a_compiler_that_fails_leaves_nothing_behind(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.cpp"
    broken.write_text("this is no C++")
    monkeypatch.setattr(native, "_SOURCE", broken)
    assert native.load("DEFAULT") is None
    assert not any(cache.iterdir())


@needs_compiler
def test_a_kernel_that_computes_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.cpp"
    wrong.write_text(native._SOURCE.read_text().replace("s.key_dim, s.scale)", "s.key_dim, 2 * s.scale)"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(native, "_SOURCE", wrong)
    assert _kernel() is None
