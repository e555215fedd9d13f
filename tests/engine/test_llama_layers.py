"""Layers in fewer passes compute what transformers' layers compute, and stand only where their definition is known."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from tests.engine.conftest import greedy, run, small_config, tiny_model
from tests.engine.test_native import needs_compiler
from worker.engine import huge_pages, native, transformers_engine
from worker.engine.config import EngineConfig
from worker.engine.factory import build_engine
from worker.engine.llama_layers import LlamaLayer
from worker.engine.loading import LoadedWeights
from worker.engine.native.rotation import Rotation
from worker.engine.packing import PackedLinear

MISTRAL = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 24, "max_position_embeddings": 256, "sliding_window": 8, "bos_token_id": 0, "eos_token_id": 0,
    "initializer_range": 0.3,
}  # fmt: skip


def _model(name: str, vocab_size: int) -> Any:
    if name == "mistral, a window":
        torch.manual_seed(7)
        return MistralForCausalLM(MistralConfig(vocab_size=vocab_size, **MISTRAL))
    if name == "llama, a window that it does not know":
        return tiny_model("llama", vocab_size, sliding_window=8)
    if name == "llama, biases":
        return _with_biases(tiny_model("llama", vocab_size, attention_bias=True, mlp_bias=True))
    if name == "qwen2, windows in some layers":
        windows = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
        return _with_biases(tiny_model("qwen2", vocab_size, **windows))
    return _with_biases(tiny_model(name, vocab_size))


def _with_biases(model: Any) -> Any:
    """transformers begins with zeros."""
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def _answers(folder: Path, **changes: Any) -> tuple[list[tuple[int, ...]], list[str]]:
    """Of a short prompt and of one in several chunks, side by side; and the kinds of the model's layers."""
    engine = build_engine(small_config(folder, **changes))
    engine.start()
    layers = engine._loop.model.runner.model.model.layers  # type: ignore[attr-defined]  # inside
    kinds = [type(layer).__name__ for layer in layers]
    answers = [run(engine, tuple(range(20, end)), greedy(50)).completions[0].token_ids for end in (25, 70)]
    engine.shutdown()
    return answers, kinds


@needs_compiler
@pytest.mark.parametrize(
    "name",
    [
        "llama", "llama, biases", "llama, a window that it does not know", "mistral, a window", "qwen2",
        "qwen2, windows in some layers",
    ],
)  # fmt: skip
@pytest.mark.parametrize("deterministic", [False, True])
def test_says_what_plain_layers_say(
    name: str, deterministic: bool, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    _model(name, len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    plain, plain_kinds = _answers(tmp_path, pack_weights="off", deterministic=deterministic)
    fused, fused_kinds = _answers(tmp_path, pack_weights="on", deterministic=deterministic)
    assert fused == plain
    assert set(fused_kinds) == {"LlamaLayer"}
    assert "LlamaLayer" not in plain_kinds


@needs_compiler
@pytest.mark.parametrize(("family", "changes"), [("qwen3", {}), ("llama", {"hidden_act": "relu"})])
def test_layers_that_are_something_else_stay(
    family: str, changes: dict[str, Any], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    tiny_model(family, len(tokenizer), **changes).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    _, kinds = _answers(tmp_path, pack_weights="on")
    assert LlamaLayer.__name__ not in kinds


@needs_compiler
@pytest.mark.parametrize(("heads", "dim", "tokens"), [(1, 16, 1), (6, 24, 5), (10, 64, 120)])
def test_rotation_turns_as_transformers_does(heads: int, dim: int, tokens: int) -> None:
    library = native.load(torch.backends.cpu.get_cpu_capability())
    assert library is not None
    torch.manual_seed(heads)
    states = torch.randn(1, tokens, (heads + 2) * dim)
    cosines, sines = torch.randn(2, 1, tokens, dim).unbind()
    by_head = states.view(1, tokens, heads + 2, dim).transpose(1, 2)
    expected, _ = apply_rotary_pos_emb(by_head, by_head, cosines, sines)
    turned = states.clone()
    Rotation(library)(turned, cosines, sines, heads)
    turned_by_head = turned.view(1, tokens, heads + 2, dim).transpose(1, 2)
    torch.testing.assert_close(turned_by_head[:, :heads], expected[:, :heads], atol=1e-6, rtol=1e-6)
    assert torch.equal(turned_by_head[:, heads:], by_head[:, heads:]), "what comes after the heads stays"


@needs_compiler
@pytest.mark.parametrize("native_kernels", [True, False])
def test_plain_weights_go_as_packed_ones_come(
    native_kernels: bool, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain: list[weakref.ref[Any]] = []
    left: list[int] = []
    build, load = PackedLinear.__init__, transformers_engine.load_weights

    def watched_load(config: EngineConfig) -> LoadedWeights:
        weights = load(config)
        plain.extend(weakref.ref(module) for module in weights.model.modules() if type(module) is torch.nn.Linear)
        return weights

    def watched_build(self: PackedLinear, *given: Any) -> None:
        left.append(sum(ref() is not None for ref in plain))
        build(self, *given)

    monkeypatch.setattr(PackedLinear, "__init__", watched_build)
    config = small_config(folders["llama"], pack_weights="on", native_kernels=native_kernels)
    transformers_engine.load_model(config, watched_load)
    one_layer = 7
    in_both_layers = sum(count > one_layer + 1 for count in left)
    assert in_both_layers <= 1 + one_layer, (
        "after the trial and the first layer's, only the second's are left, and the output's"
    )
    assert sum(ref() is not None for ref in plain) == 0


def test_huge_pages_lie_wholly_in_what_they_are_asked_for() -> None:
    page = 2 * 1024**2
    assert huge_pages.whole_pages([(0, page - 1)]) == []
    assert huge_pages.whole_pages([(1, 2 * page)]) == [(page, 2 * page)]
    assert huge_pages.whole_pages([(5 * page + 16, 7 * page + 9), (4 * page, 5 * page)]) == [(4 * page, 7 * page)]
    assert huge_pages.whole_pages([(0, page), (3 * page, 4 * page)]) == [(0, page), (3 * page, 4 * page)]


def test_weights_in_huge_pages_compute_the_same() -> None:
    layer = PackedLinear(torch.randn(2048, 2048), torch.randn(2048))
    x = torch.randn(3, 2048)
    before = layer(x)
    start, end = layer.memory()
    assert end - start >= 2048 * 2048 * 4
    assert 0 <= huge_pages.use_huge_pages(torch.nn.Sequential(layer)) <= end - start
    assert torch.equal(layer(x), before)
