"""A model that cannot be served is refused at start, with a sentence that says what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel, BloomConfig, BloomForCausalLM, PreTrainedTokenizerFast

from shared.errors import ConfigurationError, ModelLoadError
from tests.engine.conftest import CONTEXT, small_config, tiny_model
from worker.engine import attention
from worker.engine.config import EngineConfig
from worker.engine.factory import build_engine
from worker.engine.loading import choose_dtype
from worker.engine.packing import pack_linears
from worker.engine.transformers_engine import model_context


def refusal(config: EngineConfig) -> str:
    """The sentence with which an engine refuses to start."""
    engine = build_engine(config)
    with pytest.raises(ModelLoadError) as caught:
        engine.start()
    assert not engine.healthy()
    engine.shutdown()
    return caught.value.message


@pytest.fixture
def broken(folders: dict[str, Path], tmp_path: Path) -> Callable[[Callable[[Path], object]], EngineConfig]:
    """A copy of a good model, after something was done to it."""

    def make(damage: Callable[[Path], object]) -> EngineConfig:
        folder = tmp_path / "model"
        shutil.copytree(folders["gpt2"], folder)
        damage(folder)
        return small_config(folder)

    return make


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", ["/no/such/folder", "./nowhere", "a/b/c"])
def test_no_folder(name: str) -> None:
    assert "There is no folder" in refusal(EngineConfig(model_id=name))


def test_no_config(tmp_path: Path) -> None:
    assert "no config.json" in refusal(EngineConfig(model_id=str(tmp_path)))


def test_weights_cut_short(broken: Any) -> None:
    config = broken(lambda folder: (folder / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}"))
    assert "Download the model again" in refusal(config)


def test_weights_that_end_early(broken: Any) -> None:
    def cut(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-1000])

    assert "cannot be read" in refusal(broken(cut))


def test_weights_missing_from_the_file(broken: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    from safetensors.torch import load_file, save_file

    def drop(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        tensors.pop("transformer.h.1.mlp.c_fc.weight")
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    assert "not complete" in refusal(broken(drop))


def test_weights_only_as_pickle(broken: Any) -> None:
    def pickle(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        torch.save({}, folder / "pytorch_model.bin")

    assert "safetensors" in refusal(broken(pickle))


def test_code_from_the_model_is_never_run(broken: Any, tmp_path: Path) -> None:
    proof = tmp_path / "ran"

    def with_code(folder: Path) -> None:
        (folder / "evil.py").write_text(f"open({str(proof)!r}, 'w')\nclass C: pass\n")
        names = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C"}
        change_config(folder, model_type="evil", auto_map=names)

    assert "its own Python code" in refusal(broken(with_code))
    assert not proof.exists()


def test_not_a_causal_model(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    model = BertModel(BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    # transformers counts BERT as causal (BertLMHeadModel), so this one is caught by its own config or by the probe.
    assert refusal(small_config(tmp_path))


def test_an_encoder_decoder(broken: Any) -> None:
    assert "not a causal language model" in refusal(broken(lambda folder: change_config(folder, model_type="t5")))


def test_attention_of_another_kind_is_found_at_start(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    model = BloomForCausalLM(BloomConfig(vocab_size=len(tokenizer), hidden_size=32, n_layer=1, n_head=2))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert "BloomForCausalLM" in refusal(small_config(tmp_path))


def test_a_model_that_computes_something_else_in_slots_is_refused(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    attend = attention.scaled_dot_product_attention

    def unscaled(*args: Any, **kwargs: Any) -> torch.Tensor:
        return attend(*args, **(kwargs | {"scale": 1.0}))

    monkeypatch.setattr(attention, "scaled_dot_product_attention", unscaled)
    assert "logits differ" in refusal(small_config(folders["llama"]))


def test_rotary_embeddings_that_depend_on_the_batch_keep_the_first_context(tokenizer: PreTrainedTokenizerFast) -> None:
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 64}
    assert model_context(tiny_model("llama", len(tokenizer), rope_parameters=rope)) == 64
    assert model_context(tiny_model("llama", len(tokenizer))) == CONTEXT


def test_the_hub_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "hub cannot be reached" in refusal(EngineConfig(model_id="somebody/some-model-that-is-not-cached"))


def test_devices_and_dtypes_that_are_not_there(folders: dict[str, Path]) -> None:
    if not torch.cuda.is_available():
        assert "CUDA" in refusal(small_config(folders["gpt2"], device="cuda"))
        assert "CUDA" in refusal(small_config(folders["gpt2"], device="cuda:3"))
    assert "Unknown device" in refusal(small_config(folders["gpt2"], device="abacus"))
    assert "Unknown dtype" in refusal(small_config(folders["gpt2"], dtype="float12"))


def test_dtype_follows_the_device(monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast) -> None:
    config = tiny_model("gpt2", len(tokenizer)).config
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert choose_dtype("auto", cpu, config) is torch.float32
    assert choose_dtype("auto", cuda, config) is torch.float16
    config.dtype = torch.bfloat16
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert choose_dtype("auto", cuda, config) is torch.bfloat16
    assert choose_dtype("float32", cuda, config) is torch.float32


def test_packing_replaces_only_what_gains(tokenizer: PreTrainedTokenizerFast) -> None:
    assert pack_linears(tiny_model("gpt2", len(tokenizer)), "off") == 0
    assert pack_linears(tiny_model("gpt2", len(tokenizer)), "auto") == 0, "these are all small"
    model = tiny_model("gpt2", len(tokenizer)).eval()
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        before = model(ids).logits
        assert pack_linears(model, "on") == 9
        assert torch.allclose(model(ids).logits, before, atol=1e-4)


def test_half_precision_is_not_packed(tokenizer: PreTrainedTokenizerFast) -> None:
    assert pack_linears(tiny_model("gpt2", len(tokenizer)).to(torch.bfloat16), "on") == 0


def test_bfloat16_runs_on_a_cpu(folders: dict[str, Path], new_engine: Callable[..., Any]) -> None:
    engine = new_engine("llama", dtype="bfloat16")
    assert engine.info.dtype == "bfloat16"


def test_factory_refuses_what_does_not_exist() -> None:
    with pytest.raises(ConfigurationError):
        build_engine(EngineConfig(engine="oracle"))
    with pytest.raises(ConfigurationError):
        build_engine(EngineConfig(engine="transformers"))
