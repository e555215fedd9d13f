"""Log-probabilities against transformers' own logits."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from tests.engine.conftest import Listener, greedy, run, submit
from worker.engine.protocol import Engine, Place, SamplingParams

PROMPT = tuple(random.Random(4).choices(range(3, 400), k=70))  # over four times the token budget of a step


@pytest.fixture
def engine(shared_engine: Callable[[str], Engine]) -> Engine:
    return shared_engine("gpt2")


def told_by_transformers(folder: Path, tokens: tuple[int, ...]) -> torch.Tensor:
    """float32 ``[tokens - 1, vocab]``: of each token but the first."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.inference_mode():
        return torch.log_softmax(model(torch.tensor([tokens])).logits[0, :-1].float(), dim=-1)


def check(places: tuple[Place, ...] | None, tokens: tuple[int, ...], told: torch.Tensor, count: int) -> None:
    assert places is not None
    assert [place.chosen.token for place in places] == list(tokens)
    values, ids = told.topk(max(count, 1))
    for at, place in enumerate(places):
        assert place.chosen.logprob == pytest.approx(float(told[at, tokens[at]]), abs=2e-3)
        assert [one.token for one in place.best] == ids[at].tolist()[:count]
        assert [one.logprob for one in place.best] == pytest.approx(values[at].tolist()[:count], abs=2e-3)


@pytest.mark.parametrize("family", ["gpt2", "qwen2"])
def test_they_are_those_of_the_model_itself(
    family: str, shared_engine: Callable[[str], Engine], folders: dict[str, Path]
) -> None:
    engine = shared_engine(family)
    for count in (0, 1, 20):
        params = SamplingParams(
            max_tokens=12, seed=3, temperature=1.4, top_k=30, repetition_penalty=1.5, frequency_penalty=1.0, n=2,
            logit_bias=((7, 9.0),), min_tokens=12, logprobs=count, prompt_logprobs=count,
        )  # fmt: skip
        neighbours = [submit(engine, PROMPT[:at], greedy(9)) for at in (3, 30)]
        result = run(engine, PROMPT, params)
        for neighbour in neighbours:
            neighbour.result(30)
        for completion in result.completions:
            told = told_by_transformers(folders[family], PROMPT + completion.token_ids)
            check(result.prompt_places, PROMPT[1:], told[: len(PROMPT) - 1], count)
            check(completion.places, completion.token_ids, told[len(PROMPT) - 1 :], count)


def test_without_asking_there_are_none(engine: Engine) -> None:
    result = run(engine, PROMPT, greedy(4))
    assert (result.prompt_places, result.completions[0].places) == (None, None)
    one = run(engine, (9,), greedy(4, prompt_logprobs=3))
    assert (one.prompt_places, one.completions[0].places) == ((), None)


def test_they_change_no_token(engine: Engine) -> None:
    params = {"seed": 11, "temperature": 1.0, "top_p": 0.9}
    plain = run(engine, PROMPT, greedy(20, **params)).completions[0]
    told = run(engine, PROMPT, greedy(20, logprobs=5, prompt_logprobs=5, **params)).completions[0]
    assert (told.token_ids, told.text) == (plain.token_ids, plain.text)


def test_tokens_have_their_own_texts(engine: Engine, tokenizer: PreTrainedTokenizerFast) -> None:
    # Token 0 ends a text; it has a place too, though no text of the answer.
    params = greedy(9, logprobs=2, prompt_logprobs=0, ignore_eos=False, logit_bias=((0, 100.0),), min_tokens=3)
    result = run(engine, PROMPT, params)
    places = result.completions[0].places
    assert places is not None
    assert [place.chosen.token for place in places] == list(result.completions[0].token_ids)
    assert places[-1].chosen.text == "<|endoftext|>"
    for place in (*places, *(result.prompt_places or ())):
        for one in (place.chosen, *place.best):
            assert one.text == tokenizer.decode([one.token])


def test_a_stream_tells_them_with_their_tokens(engine: Engine) -> None:
    heard = Listener()
    result = run(engine, PROMPT, greedy(30, logprobs=3, n=2, temperature=1.0, seed=1, stop=("never found",)), heard)
    for completion in result.completions:
        deltas = [delta for delta in heard.deltas if delta.index == completion.index]
        assert all(len(delta.places) == delta.token_count for delta in deltas)
        assert tuple(place for delta in deltas for place in delta.places) == completion.places
    silent = Listener()
    run(engine, PROMPT, greedy(5), silent)
    assert all(delta.places == () for delta in silent.deltas)
