"""The vectorized sampler against transformers' own logits processors, and against itself in other company."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tests.engine.conftest import Listener, greedy, run, submit
from worker.engine import drawing
from worker.engine.protocol import Engine, FinishReason, SamplingParams
from worker.engine.row_sampling import RowSampling
from worker.engine.sampler import Sampler
from worker.engine.stopping import StopStrings

CPU = torch.device("cpu")


def reference(logits: torch.Tensor, params: SamplingParams, prompt: list[int], output: list[int]) -> torch.Tensor:
    """Scores by transformers' processors where it has them, one by one in the order that sampler.py promises."""
    scores = logits.clone()
    for token, value in params.logit_bias:
        scores[token] += value
    if params.repetition_penalty != 1.0:
        seen = torch.tensor([prompt + output])
        scores = RepetitionPenaltyLogitsProcessor(params.repetition_penalty)(seen, scores[None])[0]
    for token, count in Counter(output).items():
        scores[token] -= params.frequency_penalty * count + params.presence_penalty
    if len(output) < params.min_tokens:
        scores[list(params.stop_token_ids)] = -torch.inf
    chain = LogitsProcessorList([TemperatureLogitsWarper(float(params.temperature or 1))])
    if params.min_p:
        chain.append(MinPLogitsWarper(params.min_p))
    if params.top_k:
        chain.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        chain.append(TopPLogitsWarper(params.top_p))
    return chain(torch.tensor([prompt]), scores[None])[0]


@pytest.mark.parametrize("vocab", [50, 3000, 6007])
@pytest.mark.parametrize("spread", [0.02, 1.0, 6.0])
def test_the_nucleus_is_that_of_transformers(vocab: int, spread: float) -> None:
    torch.manual_seed(vocab)
    pairs = list(itertools.product((0, 1, 5, 40, vocab // 3, vocab, vocab * 9), (0.05, 0.5, 0.9, 0.999, 1.0)))
    logits = torch.randn(len(pairs), vocab) * spread
    probabilities = torch.softmax(logits, dim=-1)
    top_k = torch.tensor([[min(k or vocab, vocab)] for k, _ in pairs])
    top_p = torch.tensor([[p] for _, p in pairs])
    narrow, ids, short = drawing.nucleus(probabilities, top_k, top_p, min(256, vocab))
    wide = drawing.wide_nucleus(probabilities, top_k, top_p, torch.empty_like(probabilities))
    for at, (k, p) in enumerate(pairs):
        expected = torch.softmax(reference(logits[at], SamplingParams(top_k=k, top_p=p), [0], []), dim=-1)
        spread_out = torch.zeros(vocab).index_add(0, ids[at], narrow[at])
        is_for_wide = short[at] or 256 < top_k[at] < vocab
        for got in [wide[at]] if is_for_wide else [wide[at], spread_out]:
            assert torch.allclose(got / got.sum(), expected, atol=1e-5), (k, p)
    assert short.any() == (vocab > 256)


@pytest.mark.parametrize("size", [1, 2, 50, 256, 257, 513, 4000, 4111])
def test_blocks_change_no_result(size: int) -> None:
    torch.manual_seed(size)
    tied = (torch.randn(6, size) * 3).round()
    tied[5, size // 2] = torch.nan
    assert torch.equal(drawing.largest(tied), tied.argmax(-1))
    untied = torch.rand(6, size)
    count = min(7, size)
    assert all(map(torch.equal, drawing.best(untied, count), untied.topk(count)))
    weights = untied.masked_fill(torch.rand(6, size) < 0.5, 0.0)
    weights[:, size // 2] = 0.3
    uniforms = torch.rand(6, 1)
    sums = weights.double().cumsum(-1)
    plain = torch.searchsorted(sums, uniforms.double() * sums[:, -1:], right=True).squeeze(1)
    assert torch.equal(drawing.invert(weights, uniforms), plain)


def some_params(dice: random.Random, vocab: int) -> SamplingParams:
    values: dict[str, Any] = {
        "max_tokens": 30, "seed": dice.randrange(99), "temperature": dice.choice((0.0, 0.0, 0.5, 1.0, 1.7)),
        "top_k": dice.choice((0, 0, 3, 300)), "top_p": dice.choice((1.0, 1.0, 0.5, 0.95)),
        "min_p": dice.choice((0.0, 0.0, 0.02)), "repetition_penalty": dice.choice((1.0, 1.0, 1.3, 0.7)),
        "presence_penalty": dice.choice((0.0, 0.0, 1.5, -1.0)), "frequency_penalty": dice.choice((0.0, 0.0, 0.7)),
    }  # fmt: skip
    if dice.random() < 0.3:
        ids = dice.sample(range(vocab), 9)
        values["logit_bias"] = tuple((token, dice.uniform(-5, 5)) for token in ids[: dice.randint(1, 9)])
    if dice.random() < 0.3:
        values |= {
            "stop_token_ids": tuple(dice.sample(range(vocab), dice.randint(1, min(20, vocab // 2)))),
            "min_tokens": 9,
        }
    return SamplingParams(**values)


@pytest.mark.parametrize("vocab", [40, 900])
def test_a_row_gets_the_same_tokens_in_any_company_and_only_such_as_it_may(vocab: int) -> None:
    dice = random.Random(vocab)
    torch.manual_seed(vocab)
    params = [some_params(dice, vocab) for _ in range(40)]
    prompts = [[dice.randrange(vocab) for _ in range(dice.randint(1, 9))] for _ in params]
    logits = torch.randn(len(params), 20, vocab) * 2

    def made() -> list[RowSampling]:
        return [RowSampling(p, i, prompts[i]) for i, p in enumerate(params)]

    alone: list[list[int | None]] = []
    for at, row in enumerate(made()):
        sampler = Sampler(CPU)
        alone.append([sampler.sample(logits[at, step][None], [row])[0] for step in range(20)])

    rows, sampler = made(), Sampler(CPU)
    together: list[list[Any]] = [[] for _ in params]
    company: list[int] = []
    while any(len(output) < 20 for output in together):
        if dice.random() < 0.4 or not company:
            open_ = [at for at, output in enumerate(together) if len(output) < 20]
            company = dice.sample(open_, dice.randint(1, min(8, len(open_))))
        company = [at for at in company if len(together[at]) < 20]
        if not company:
            continue
        some = torch.stack([logits[at, len(together[at])] for at in company])
        for at, token in zip(company, sampler.sample(some, [rows[at] for at in company]), strict=True):
            together[at].append(token)
    assert together == alone
    for at, output in enumerate(together):
        for step, token in enumerate(output):
            scores = reference(logits[at, step], params[at], prompts[at], output[:step])
            if params[at].temperature == 0:
                assert token == int(scores.argmax()), (params[at], step)
            else:
                assert scores[token] > -torch.inf, (params[at], step)


def test_draws_follow_the_probabilities() -> None:
    dice = random.Random(8)
    torch.manual_seed(8)
    for _ in range(8):
        base = some_params(dice, 12)
        params = [
            SamplingParams(
                **{name: getattr(base, name) for name in base.__slots__} | {"temperature": 0.9, "seed": seed}
            )
            for seed in range(1500)
        ]
        logits = torch.randn(12)
        rows = [RowSampling(p, 0, [3, 4]) for p in params]
        tokens = torch.tensor(Sampler(CPU).sample(logits.expand(1500, -1), rows))
        shares = torch.bincount(tokens, minlength=12) / 1500
        expected = torch.softmax(reference(logits, params[0], [3, 4], []), dim=-1)
        assert torch.allclose(shares, expected, atol=0.05), base


def test_numbers_drawn_in_blocks_are_those_drawn_one_by_one() -> None:
    generator = torch.Generator()
    generator.manual_seed(5)
    one_by_one = [float(torch.rand((), generator=generator)) for _ in range(300)]
    row = RowSampling(SamplingParams(seed=4, max_tokens=500), 1, [0])
    for taken, count in ((0, 1), (0, 64), (1, 3), (63, 2), (65, 200), (299, 1)):
        row.taken = taken
        assert row.uniforms(count).tolist() == one_by_one[taken : taken + count]


def test_a_draw_at_the_very_end_falls_on_a_token_that_may_be_chosen() -> None:
    probabilities = torch.tensor([[0.4, 0.6, 0.0, 0.0], [0.1, 0.0, 0.0, 0.9]])
    nearly_one = torch.tensor([[0.99999994], [0.99999994]])
    assert drawing.invert(probabilities, nearly_one).tolist() == [1, 3]
    assert drawing.invert(probabilities, torch.zeros(2, 1)).tolist() == [0, 0]
    assert drawing.invert(probabilities.flip(-1), torch.zeros(2, 1)).tolist() == [2, 0]


def test_unseeded_rows_differ() -> None:
    rows = [RowSampling(SamplingParams(max_tokens=1), 0, [0]) for _ in range(20)]
    assert len(set(Sampler(CPU).sample(torch.zeros(20, 5000), rows))) > 10


def test_sampling_leaves_the_logits_as_they_were() -> None:
    params = SamplingParams(max_tokens=1, repetition_penalty=2.0, top_k=3, logit_bias=((4, 9.0),))
    logits = torch.randn(1, 30)
    before = logits.clone()
    Sampler(CPU).sample(logits, [RowSampling(params, 0, [1, 2])])
    assert torch.equal(logits, before)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_rows_without_numbers_say_so_and_leave_the_others_alone(bad: float) -> None:
    params = [SamplingParams(max_tokens=9, seed=1, temperature=t, top_p=p) for t, p in ((0, 1), (1, 1), (1, 0.5))]
    logits = torch.randn(6, 700)
    good = Sampler(CPU).sample(logits[:3], [RowSampling(p, 0, [1]) for p in params])
    logits[3:] = bad
    assert Sampler(CPU).sample(logits, [RowSampling(p, 0, [1]) for p in params * 2]) == [*good, None, None, None]


def test_a_stop_token_ends_the_answer_and_is_not_in_its_text(shared_engine: Callable[[str], Engine]) -> None:
    engine = shared_engine("gpt2")
    free = run(engine, (5, 6, 7), greedy(30)).completions[0]
    stop = free.token_ids[9]
    ended = run(engine, (5, 6, 7), greedy(30, stop_token_ids=(stop, 419))).completions[0]
    first = free.token_ids.index(stop)
    assert (ended.finish_reason, ended.token_ids) == (FinishReason.STOP, free.token_ids[: first + 1])
    before = run(engine, (5, 6, 7), greedy(first)).completions[0].text if first else ""
    assert ended.text == before


def test_before_min_tokens_nothing_ends_an_answer(shared_engine: Callable[[str], Engine]) -> None:
    engine = shared_engine("gpt2")
    free = run(engine, (5, 6, 7), greedy(40)).completions[0]
    stops = tuple(sorted(set(free.token_ids)))[:60]
    first = next(at for at, token in enumerate(free.token_ids) if token in stops)
    for least in (0, 1, 7, 20):
        ended = run(engine, (5, 6, 7), greedy(40, stop_token_ids=stops, min_tokens=least)).completions[0]
        assert not set(ended.token_ids[:least]) & set(stops)
        assert len(ended.token_ids) == 40 or ended.token_ids[-1] in stops
        assert len(ended.token_ids) > least
    assert first < 7, "nothing would have ended it"
    # Token 0 ends a text of this model: here it would come at once.
    eager = greedy(20, ignore_eos=False, logit_bias=((0, 100.0),))
    assert len(run(engine, (5, 6, 7), eager).completions[0].token_ids) == 1
    patient = greedy(20, ignore_eos=False, logit_bias=((0, 100.0),), min_tokens=6)
    tokens = run(engine, (5, 6, 7), patient).completions[0].token_ids
    assert (len(tokens), tokens[-1], 0 in tokens[:-1]) == (7, 0, False)


def test_stop_strings_are_not_looked_for_before_min_tokens(new_engine: Callable[..., Any]) -> None:
    echo = new_engine("echo")
    prompt = tuple(b"abcab")
    for least, text in ((0, "a"), (1, "a"), (2, "abca"), (4, "abca"), (5, "abcaba"), (7, "abcababca")):
        ended = run(echo, prompt, greedy(30, stop=("b",), min_tokens=least)).completions[0]
        assert ended.text == text, least
    stops = StopStrings(("ab", "abc"))
    assert stops.feed("xab", early=True) == "x"
    assert stops.feed("y") == "aby"
    assert stops.feed("a", early=True) + stops.feed("b") == ""
    assert stops.matched


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
