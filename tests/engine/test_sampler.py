"""The vectorized sampler against transformers' own logits processors."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tests.engine.conftest import Listener, run, submit
from worker.engine import sampler
from worker.engine.protocol import Engine, SamplingParams
from worker.engine.sampler import RowSampling


def reference(logits: torch.Tensor, params: SamplingParams, seen: torch.Tensor) -> torch.Tensor:
    """Probabilities by transformers' processors, in the order in which it applies them."""
    chain = LogitsProcessorList()
    if params.repetition_penalty != 1.0:
        chain.append(RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    chain.append(TemperatureLogitsWarper(float(params.temperature)))
    if params.top_k:
        chain.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        chain.append(TopPLogitsWarper(params.top_p))
    return torch.softmax(chain(seen[None], logits[None].clone()), dim=-1)[0]


@pytest.mark.parametrize("vocab", [50, 3000])
@pytest.mark.parametrize("spread", [0.02, 1.0, 6.0])
def test_candidates_are_those_of_transformers(vocab: int, spread: float) -> None:
    torch.manual_seed(vocab)
    dice = random.Random(1)
    rows = []
    pairs = itertools.product((0, 1, 5, 40, vocab, vocab * 9), (0.05, 0.5, 0.9, 0.999, 1.0))
    for index, (top_k, top_p) in enumerate(pairs):
        params = SamplingParams(
            max_tokens=4,
            temperature=dice.choice((0.3, 0.7, 1.0, 1.9)),
            top_k=top_k,
            top_p=top_p,
            repetition_penalty=dice.choice((1.0, 1.0, 1.2, 0.8)),
        )
        rows.append(RowSampling(params, index, [dice.randrange(vocab) for _ in range(dice.randint(1, 9))]))
    logits = torch.randn(len(rows), vocab) * spread
    penalized = sampler.penalized(logits, rows)
    for at, row in enumerate(rows):
        seen = row.seen if row.seen.numel() else torch.tensor([0])
        expected = reference(logits[at], row.params, seen)
        for batch in ([at], [(at + offset) % len(rows) for offset in range(3)]):
            scores = torch.stack([penalized[i] / rows[i].params.temperature for i in batch])
            ids, probabilities = sampler.candidates(scores, [rows[i].params for i in batch])
            got = torch.zeros(vocab).index_add(0, ids[0], probabilities[0])
            assert torch.allclose(got / got.sum(), expected, atol=1e-5), row.params


def test_draws_follow_the_probabilities() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    for params, expected in (
        (SamplingParams(seed=1, max_tokens=1), [0.5, 0.3, 0.15, 0.05]),
        (SamplingParams(seed=1, max_tokens=1, top_k=2), [0.625, 0.375, 0, 0]),
        (SamplingParams(seed=1, max_tokens=1, top_p=0.79), [0.625, 0.375, 0, 0]),
    ):
        row = RowSampling(params, 0, [0])
        counts = torch.bincount(torch.tensor([sampler.sample(logits, [row])[0] for _ in range(3000)]), minlength=4)
        assert torch.allclose(counts / 3000, torch.tensor(expected), atol=0.03)


def test_a_draw_at_the_very_end_falls_on_a_token_that_may_be_chosen() -> None:
    probabilities = torch.tensor([[0.4, 0.6, 0.0, 0.0], [0.1, 0.0, 0.0, 0.9]])
    nearly_one = torch.tensor([[0.99999994], [0.99999994]])
    assert sampler.invert(probabilities, nearly_one).tolist() == [1, 3]
    assert sampler.invert(probabilities, torch.zeros(2, 1)).tolist() == [0, 0]
    assert sampler.invert(probabilities.flip(-1), torch.zeros(2, 1)).tolist() == [2, 0]


def test_unseeded_rows_differ() -> None:
    rows = [RowSampling(SamplingParams(max_tokens=1), 0, [0]) for _ in range(20)]
    assert len(set(sampler.sample(torch.zeros(20, 5000), rows))) > 10


def test_sampling_leaves_the_logits_as_they_were() -> None:
    rows = [RowSampling(SamplingParams(max_tokens=1, repetition_penalty=2.0, top_k=3), 0, [1, 2])]
    logits = torch.randn(1, 30)
    before = logits.clone()
    sampler.sample(logits, rows)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_seeded_answer_does_not_depend_on_its_neighbours(family: str, shared_engine: Callable[[str], Engine]) -> None:
    engine = shared_engine(family)
    dice = random.Random(2)
    params = SamplingParams(
        max_tokens=40, seed=77, temperature=0.9, top_p=0.95, repetition_penalty=1.1, ignore_eos=True
    )
    prompt = tuple(dice.randrange(3, 300) for _ in range(23))
    alone = run(engine, prompt, params)
    for _ in range(3):
        others = [
            submit(
                engine,
                tuple(dice.randrange(3, 300) for _ in range(dice.randint(1, 50))),
                SamplingParams(max_tokens=dice.randint(1, 40), temperature=dice.choice((0.0, 1.0)), ignore_eos=True),
            )
            for _ in range(6)
        ]
        handle = submit(engine, prompt, params)
        assert handle.result(30) == alone
        for other in others:
            other.result(30)


@pytest.mark.parametrize("company", [False, True])
def test_completion_i_uses_seed_plus_i(shared_engine: Callable[[str], Engine], company: bool) -> None:
    engine = shared_engine("gpt2")
    heard = Listener(hold=True)
    if company:  # one that already decodes when the three are admitted
        other = submit(engine, (30, 31), SamplingParams(max_tokens=60, ignore_eos=True), heard)
        assert heard.heard.wait(20)
    handle = submit(engine, (9, 8, 7), SamplingParams(max_tokens=15, seed=40, n=3, ignore_eos=True))
    heard.go.set()
    several = handle.result(30).completions
    for index in range(3):
        single = run(engine, (9, 8, 7), SamplingParams(max_tokens=15, seed=40 + index, ignore_eos=True)).completions[0]
        assert several[index].token_ids == single.token_ids
    assert len({completion.token_ids for completion in several}) == 3
    if company:
        other.result(30)
