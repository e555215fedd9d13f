"""Adapters: what the engine says with one is what peft's merged model says, whoever shares the step."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from shared.errors import InvalidRequestError, ModelLoadError
from tests.engine.conftest import CONTEXT, FAMILIES, greedy, run, small_config
from tests.engine.test_greedy_equivalence import generate, make_jobs
from worker.engine.factory import build_engine
from worker.engine.protocol import EngineRequest

TARGETS = {"gpt2": ["c_attn", "c_proj", "c_fc"]}
OTHERS = ["q_proj", "v_proj", "o_proj", "down_proj", "gate_proj"]


def make_adapter(base: Path, folder: Path, family: str, seed: int, **changes: Any) -> Any:
    """An adapter with large random weights, saved by peft; returns the merged model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's own, about transformers' names
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(seed)
        values = {
            "r": 4, "lora_alpha": 12, "target_modules": TARGETS.get(family, OTHERS), "init_lora_weights": False,
            "fan_in_fan_out": family == "gpt2", "task_type": "CAUSAL_LM",
        }  # fmt: skip
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base).eval(), LoraConfig(**(values | changes)))
        model.save_pretrained(folder)
        return model.merge_and_unload()


@pytest.fixture(scope="module")
def adapters(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    made: dict[str, Any] = {}

    def get(family: str) -> Any:
        if family not in made:
            root = tmp_path_factory.mktemp(f"adapters-{family}")
            one = make_adapter(folders[family], root / "one", family, 1)
            pattern = {"c_fc": 6} if family == "gpt2" else {"q_proj": 2}
            two = make_adapter(folders[family], root / "two", family, 2, r=3, use_rslora=True, rank_pattern=pattern, alpha_pattern={"c_proj": 5, "o_proj": 5})  # fmt: skip
            made[family] = (root, {"one": one, "two": two})
        return made[family]

    return get


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pack", ["off", "on"])
def test_greedy_is_that_of_the_merged_model_in_one_batch_of_all(
    family: str, pack: str, folders: dict[str, Path], adapters: Any, new_engine: Any, tokenizer: PreTrainedTokenizerFast
) -> None:
    root, merged = adapters(family)
    models = {None: AutoModelForCausalLM.from_pretrained(folders[family]).eval(), **merged}
    configured = (("one", str(root / "one")), ("two", str(root / "two")))
    engine = new_engine(family, adapters=configured, pack_weights=pack)
    assert engine.info.adapters == ("one", "two")
    jobs = make_jobs(9, len(tokenizer), seed=21)
    names = [(None, "one", "two")[at % 3] for at in range(len(jobs))]
    handles = [
        engine.submit(EngineRequest(prompt, greedy(tokens, repetition_penalty=penalty), adapter=name))
        for (prompt, tokens, penalty), name in zip(jobs, names, strict=True)
    ]
    for handle, job, name in zip(handles, jobs, names, strict=True):
        assert handle.result(60).completions[0].token_ids == generate(models[name], *job), name
    prompt = tuple(random.Random(1).choices(range(3, 400), k=20))
    answers = {engine.submit(EngineRequest(prompt, greedy(20), adapter=name)).result(30).completions[0].token_ids for name in models}  # fmt: skip
    assert len(answers) == 3, "the adapters change nothing"


def test_an_unknown_adapter_is_refused(adapters: Any, new_engine: Any) -> None:
    root, _ = adapters("gpt2")
    engine = new_engine("gpt2", adapters=(("one", str(root / "one")),))
    with pytest.raises(InvalidRequestError) as caught:
        engine.submit(EngineRequest((1, 2), greedy(2), adapter="two"))
    assert caught.value.param == "adapter"
    assert run(engine, (5,) * (CONTEXT - 9), greedy(3)).completions


def edited(
    folder: Path, target: Path, config: dict[str, Any] | None = None, rename: Callable[[str], str] = str
) -> Path:
    target.mkdir()
    original = json.loads((folder / "adapter_config.json").read_text())
    (target / "adapter_config.json").write_text(json.dumps(original | (config or {})))
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({rename(key): tensor.clone() for key, tensor in tensors.items()}, target / "adapter_model.safetensors")
    return target


@pytest.mark.parametrize(
    "change",
    [
        {"peft_type": "IA3"}, {"use_dora": True}, {"bias": "all"}, {"modules_to_save": ["lm_head"]}, {"lora_bias": True},
        {"init_lora_weights": "pissa"}, {"layer_replication": [[0, 1]]}, {"something_new": True},
    ],
    ids=str,
)  # fmt: skip
def test_refuses_what_it_would_have_to_ignore(change: Any, folders: Any, adapters: Any, tmp_path: Path) -> None:
    root, _ = adapters("gpt2")
    folder = edited(root / "one", tmp_path / "edited", change)
    with pytest.raises(ModelLoadError, match="edited"):
        build_engine(small_config(folders["gpt2"], adapters=(("edited", str(folder)),))).start()


@pytest.mark.parametrize(
    "rename",
    [
        lambda key: key.replace("h.0.", "h.7."), lambda key: key.replace("c_fc.lora_A", "c_fc.lora_C"),
        lambda key: key.replace("h.0.mlp.c_fc", "h.0.ln_1"), lambda key: key.replace("h.0.mlp.c_fc", "h.0.mlp.c_proj2"),
    ],
)  # fmt: skip
def test_refuses_weights_that_fit_nowhere(rename: Any, folders: Any, adapters: Any, tmp_path: Path) -> None:
    root, _ = adapters("gpt2")
    folder = edited(root / "one", tmp_path / "edited", rename=rename)
    with pytest.raises(ModelLoadError, match="edited"):
        build_engine(small_config(folders["gpt2"], adapters=(("edited", str(folder)),))).start()


def test_refuses_adapters_of_another_model_and_folders_that_are_none(folders: Any, adapters: Any) -> None:
    root, _ = adapters("llama")
    other = (("x", str(root / "one")),)
    for configured in (other, (("x", str(root)),), (("x", "/nowhere"),), (("", str(root / "one")),), (*other, *other)):
        with pytest.raises(ModelLoadError) as caught:
            build_engine(small_config(folders["gpt2"], adapters=configured)).start()
        assert caught.value.param == "adapters"
