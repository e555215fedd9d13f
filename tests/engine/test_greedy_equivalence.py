"""The slot engine says what ``model.generate`` says, token by token, whoever joins and leaves the batch meanwhile."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from tests.engine.conftest import FAMILIES, greedy, run, small_config, submit, tiny_model
from worker.engine.protocol import Engine

Job = tuple[tuple[int, ...], int, float]


def make_jobs(count: int, vocab_size: int, seed: int = 3) -> list[Job]:
    """Prompts of 1-70 tokens, outputs of 1-50; every third with a repetition penalty."""
    dice = random.Random(seed)
    return [
        (
            tuple(dice.randrange(3, vocab_size) for _ in range(dice.choice((1, 2, 15, 16, 17, dice.randint(1, 70))))),
            dice.randint(1, 50),
            1.3 if at % 3 == 0 else 1.0,
        )
        for at in range(count)
    ]


def generate(model: Any, prompt: tuple[int, ...], tokens: int, penalty: float) -> tuple[int, ...]:
    ids = torch.tensor([prompt])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        do_sample=False,
        repetition_penalty=penalty,
        pad_token_id=0,
        eos_token_id=-1,
    )
    return tuple(out[0, len(prompt) :].tolist())


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_is_generate_token_by_token(
    family: str, folders: dict[str, Path], shared_engine: Callable[[str], Engine], tokenizer: PreTrainedTokenizerFast
) -> None:
    model = AutoModelForCausalLM.from_pretrained(folders[family]).eval()
    engine = shared_engine(family)
    jobs = make_jobs(14, len(tokenizer))
    expected = [generate(model, *job) for job in jobs]
    params = [greedy(tokens, repetition_penalty=penalty) for _, tokens, penalty in jobs]
    together = [submit(engine, job[0], param) for job, param in zip(jobs, params, strict=True)]
    assert [handle.result(60).completions[0].token_ids for handle in together] == expected
    alone = run(engine, jobs[0][0], params[0]).completions[0].token_ids
    assert alone == expected[0]
    assert len({token for answer in expected for token in answer}) > 30, "answers too dull to prove anything"


def test_packed_weights_say_the_same(
    folders: dict[str, Path], new_engine: Callable[..., Any], shared_engine: Callable[[str], Engine],
    tokenizer: PreTrainedTokenizerFast,
) -> None:  # fmt: skip
    for family in ("gpt2", "llama"):
        jobs = make_jobs(6, len(tokenizer), seed=11)
        plain, packed = shared_engine(family), new_engine(family, pack_weights="on")
        for prompt, tokens, _ in jobs:
            assert run(packed, prompt, greedy(tokens)) == run(plain, prompt, greedy(tokens))


def test_end_of_text_ends_the_answer_and_is_not_in_its_text(
    shared_engine: Callable[[str], Engine], tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    from worker.engine.factory import build_engine

    free = run(shared_engine("gpt2"), (5, 6, 7), greedy(30)).completions[0].token_ids
    end = free[12]
    model = tiny_model("gpt2", len(tokenizer))
    model.generation_config.eos_token_id = [end, 1]
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    engine = build_engine(small_config(tmp_path))
    engine.start()
    try:
        ended = run(engine, (5, 6, 7), greedy(30, ignore_eos=False)).completions[0]
        assert ended.finish_reason == "stop"
        assert ended.token_ids == free[: free.index(end) + 1]
        assert ended.text == tokenizer.decode(ended.token_ids[:-1], skip_special_tokens=True).rstrip("\ufffd")
        assert run(engine, (5, 6, 7), greedy(30)).completions[0].token_ids == free
    finally:
        engine.shutdown()


@pytest.mark.parametrize("layers", ["all", "some"])
def test_sliding_windows_are_kept(layers: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    from worker.engine.factory import build_engine

    types = ["sliding_attention", "sliding_attention" if layers == "all" else "full_attention"]
    model = tiny_model("qwen2", len(tokenizer), use_sliding_window=True, sliding_window=8, layer_types=types).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    engine = build_engine(small_config(tmp_path))
    engine.start()
    try:
        for prompt, tokens, _ in make_jobs(6, len(tokenizer), seed=5):
            assert run(engine, prompt, greedy(tokens)).completions[0].token_ids == generate(model, prompt, tokens, 1.0)
    finally:
        engine.shutdown()


def test_a_context_shorter_than_the_models_is_kept(new_engine: Callable[..., Any]) -> None:
    engine = new_engine("gpt2", max_context=40)
    assert engine.info.context_length == 40
    assert len(run(engine, (5,) * 20, greedy(20)).completions[0].token_ids) == 20
