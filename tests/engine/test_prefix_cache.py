"""What was computed of a prompt is not computed twice, nobody can tell from the answer, and nobody gets another's."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import GenerationError
from tests.engine.conftest import FAMILIES, greedy, run
from tests.engine.test_preemption import BYTES
from worker.engine import memory, scheduler
from worker.engine.generation import PendingGeneration
from worker.engine.prefix_cache import BLOCK
from worker.engine.prefix_index import Chain, PrefixIndex
from worker.engine.protocol import Engine, EngineRequest, EngineResult, SamplingParams
from worker.engine.sequence import Row, RowGroup

TEMPLATE = tuple(range(100, 150))  # 50 tokens: three blocks, and two tokens
POISON = 13


def row_of(prompt: Sequence[int], scope: str | None, shared: int = 0, adapter: str | None = None) -> Row:
    request = EngineRequest(tuple(prompt), greedy(9), adapter=adapter, reuse_scope=scope, shared_tokens=shared)
    return RowGroup(request, PendingGeneration(), None, lambda ids: "").rows[0]


def names(prompt: Sequence[int], scope: str | None, shared: int = 0, adapter: str | None = None) -> list[bytes]:
    chain = Chain(row_of(prompt, scope, shared, adapter), 4)
    return chain.names(chain.length(len(prompt)))


def common(first: list[bytes], second: list[bytes]) -> int:
    """How many blocks two chains have in common, from the start; after that none."""
    same = 0
    while same < min(len(first), len(second)) and first[same] == second[same]:
        same += 1
    assert not set(first[same:]) & set(second[same:])
    return same


def test_names_tell_owners_templates_and_adapters_apart() -> None:
    text = list(range(20))
    mine = names(text, "a", shared=9)
    assert len(mine) == 5
    assert common(mine, names(text, "a", shared=9)) == 5
    assert common(mine, names(text, "b", shared=9)) == 2, "of nine shared tokens two blocks of four"
    assert common(mine, names(text, None, shared=9)) == 2
    assert len(names(text, None, shared=9)) == 2, "without an owner only the template may be reused"
    assert len(names(text, None, shared=10**9)) == 5, "all of the prompt, and no more"
    assert common(mine, names(text, "a", shared=9, adapter="x")) == 0
    assert common(mine, names(text, "a")) == 0
    assert common(names(text, ""), names(text, None, shared=20)) == 0
    assert common(mine, names([*text[:11], 99, *text[12:]], "a", shared=9)) == 2
    assert common(mine, names([99, *text[1:]], "a", shared=9)) == 0, "a block stands for all that came before it"


CHAINS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=40)


@settings(deadline=None, max_examples=200)
@given(chains=CHAINS, room=st.integers(1, 8))
def test_the_index_never_holds_more_than_its_room_and_no_block_without_its_parents(
    chains: list[list[int]], room: int
) -> None:
    index, content = PrefixIndex(room), dict[int, bytes]()
    for tokens in chains:
        chain = Chain(row_of(tokens, "a"), 1)
        wanted = chain.names(len(tokens))
        found = index.find(chain, len(tokens))
        assert [content[place] for place in found] == wanted[: len(found)], "each place holds what its name says"
        places = index.make_room(chain, len(found), len(tokens))
        assert len(places) == min(len(tokens), room) - len(found), "everything else makes room"
        assert len({*found, *places}) == len(found) + len(places) <= room
        content |= dict(zip(places, wanted[len(found) :], strict=False))
        index.add(chain, len(found), places)
        assert index.find(chain, len(tokens)) == [*found, *places]
        assert len(index) <= room
        held = set(index._places)
        for other in chains:
            there = [name in held for name in Chain(row_of(other, "a"), 1).names(len(other))]
            assert there == sorted(there, reverse=True), "its leaves go before it"


def test_the_least_recently_used_goes_first() -> None:
    index = PrefixIndex(4)
    first, second, third = (Chain(row_of([at, at], "a"), 1) for at in range(3))
    for chain in (first, second):
        index.add(chain, 0, index.make_room(chain, 0, 2))
    assert len(index.find(first, 2)) == 2
    index.add(third, 0, index.make_room(third, 0, 1))
    assert [len(index.find(chain, 2)) for chain in (first, second, third)] == [2, 1, 1]


@pytest.fixture
def engine(new_engine: Callable[..., Engine]) -> Engine:
    return new_engine("gpt2")


def ask(
    engine: Engine,
    prompt: Sequence[int],
    scope: str | None = "a",
    shared: int = 0,
    params: SamplingParams | None = None,
) -> EngineResult:
    request = EngineRequest(tuple(prompt), params or greedy(3), reuse_scope=scope, shared_tokens=shared)
    return engine.submit(request).result(30)


def cached(engine: Engine, prompt: Sequence[int], scope: str | None = "a", shared: int = 0, **changes: Any) -> int:
    """Prompt tokens that were reused."""
    return ask(engine, prompt, scope, shared, greedy(3, **changes)).usage.cached_tokens


def test_the_second_time_only_the_rest_is_computed(engine: Engine) -> None:
    prompt = (*TEMPLATE, *range(60))
    assert cached(engine, prompt) == 0
    before = engine.stats().prompt_tokens
    assert cached(engine, prompt) == 96
    assert engine.stats().prompt_tokens - before == len(prompt) - 96
    assert cached(engine, prompt[:96]) == 80, "its last token is computed in any case"
    assert cached(engine, (*prompt[:70], 7, 7, 7)) == 64
    reused = engine.stats().reused
    assert (reused.queries, reused.hits) == (110 + 110 + 96 + 73, 96 + 80 + 64)
    assert reused.held_bytes % (BLOCK * 1024) == 0
    assert reused.held_bytes >= 96 * 1024


def test_a_conversation_reuses_its_answers(engine: Engine) -> None:
    prompt = TEMPLATE
    for _ in range(3):
        answer = ask(engine, prompt, params=greedy(20)).completions[0].token_ids
        prompt = (*prompt, *answer, 5, 6, 7)
    # All but the last turn's question, and the last token of its answer, which was never read.
    assert cached(engine, prompt) == (len(prompt) - 4) // BLOCK * BLOCK


def test_another_tenant_gets_the_template_and_nothing_else(engine: Engine) -> None:
    prompt = (*TEMPLATE, *range(60))
    assert cached(engine, prompt, "a", shared=50) == 0
    assert cached(engine, prompt, "b", shared=50) == 48
    assert cached(engine, prompt, "b", shared=50) == 96
    assert cached(engine, prompt, "c", shared=0) == 0
    assert cached(engine, prompt, None, shared=50) == 48
    assert cached(engine, prompt, None) == 0
    assert cached(engine, (1, *prompt), "a", shared=50) == 0


def test_log_probabilities_of_the_prompt_need_all_of_it(engine: Engine) -> None:
    assert cached(engine, TEMPLATE) == 0
    assert cached(engine, TEMPLATE, prompt_logprobs=1) == 0
    assert cached(engine, TEMPLATE) == 48


def test_it_can_be_off(new_engine: Callable[..., Engine]) -> None:
    for engine in (new_engine("gpt2", prefix_cache_bytes=0), new_engine("gpt2", prefix_cache_bytes=100)):
        assert [cached(engine, TEMPLATE) for _ in range(2)] == [0, 0]
        assert engine.stats().reused.held_bytes == 0


def test_completions_of_one_prompt_fork_after_what_was_reused(engine: Engine) -> None:
    prompt = (*TEMPLATE, *range(10))
    params = SamplingParams(max_tokens=20, seed=3, n=3, ignore_eos=True)
    expected = ask(engine, prompt, None, params=params)
    assert cached(engine, TEMPLATE) == 0
    again = ask(engine, prompt, params=params)
    assert again.completions == expected.completions
    assert again.usage.cached_tokens == 48
    assert ask(engine, prompt, params=params).completions == expected.completions


def random_jobs(count: int, seed: int) -> list[EngineRequest]:
    """Prompts that begin like others, cut and mixed at random, of two tenants; each greedy, seeded or penalized."""
    dice = random.Random(seed)
    texts = [tuple(dice.randrange(3, 300) for _ in range(90)) for _ in range(3)]
    made = []
    for at in range(count):
        text = dice.choice(texts)
        prompt = (*text[: dice.randint(1, 90)], *(dice.randrange(3, 300) for _ in range(dice.randint(0, 20))))
        tokens, n = dice.randint(3, 40), dice.choice((1, 1, 2))
        params = (
            greedy(tokens, n=n),
            SamplingParams(max_tokens=tokens, seed=at, top_p=0.9, n=n, ignore_eos=True),
            greedy(tokens, repetition_penalty=1.3, n=n),
        )[at % 3]
        shared = dice.choice((0, 40)) if prompt[:40] == text[:40] else 0
        made.append(EngineRequest(prompt, params, reuse_scope=dice.choice("ab"), shared_tokens=shared))
    return made


def answers(engine: Engine, jobs: list[EngineRequest]) -> list[EngineResult]:
    return [handle.result(60) for handle in [engine.submit(job) for job in jobs]]


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_the_same_with_and_without_reuse(
    family: str,
    new_engine: Callable[..., Engine],
    shared_engine: Callable[[str], Engine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jobs = random_jobs(10, seed=2)
    plain = [run(shared_engine(family), job.prompt, job.sampling) for job in jobs]
    expected = [result.completions for result in plain]
    monkeypatch.setattr(scheduler, "_ROOM", 0)
    monkeypatch.setattr(memory, "_page_tokens", lambda shapes, device: 8)
    roomy = new_engine(family)
    # Memory for 320 tokens, and for twelve blocks of prefixes, so that rows are preempted and blocks evicted all the time.
    rows, prefixes = 320 * BYTES[family], 12 * BLOCK * BYTES[family]
    tight = new_engine(family, kv_cache_bytes=rows + prefixes, prefix_cache_bytes=prefixes)
    for engine in (roomy, roomy, tight):
        results = answers(engine, jobs)
        assert [result.completions for result in results] == expected
        assert any(result.usage.cached_tokens > 0 for result in results)
    assert roomy.stats().reused.hits > 400
    assert tight.stats().preemptions > 0
    assert 0 < tight.stats().reused.held_bytes <= prefixes
    for engine in (roomy, tight):
        assert not runner_of(engine)._prefix._chains, "nothing stays of a request but what may be reused"
        assert not runner_of(engine)._prefix._found


def runner_of(engine: Any) -> Any:
    return engine._loop.model.runner


def test_a_row_of_nan_leaves_nothing_to_reuse(engine: Engine) -> None:
    runner = runner_of(engine)
    forward = runner.forward
    bad = (*range(20, 60), POISON, *range(60, 90))

    def spoilt(tokens: Any, positions: Any, batch: Any, wanted: Any) -> torch.Tensor:
        logits: torch.Tensor = forward(tokens, positions, batch, wanted)
        if POISON in tokens:  # in the middle of the prompt, where no logits are asked for
            for store in runner.cache.slot_layers[0].stores:
                store[batch.chunks[-1].slot, :, 40] = torch.nan
        return logits

    expected = ask(engine, bad, None)
    runner.forward = spoilt
    with pytest.raises(GenerationError):
        ask(engine, bad)
    assert engine.stats().reused.held_bytes == 0
    runner.forward = forward
    assert ask(engine, bad) == expected


def test_blocks_that_hold_no_numbers_are_not_kept_though_the_row_goes_on(engine: Engine) -> None:
    """As with a sliding window, where the last token does not see what went wrong long before it."""
    runner = runner_of(engine)
    keep = runner._prefix.keep

    def spoilt(row: Row, tokens: int) -> None:
        runner.cache.slot_layers[1].keys[row.slot, 0, 20] = torch.inf
        keep(row, tokens)
        runner.cache.clear(row.slot)

    runner._prefix.keep = spoilt
    ask(engine, TEMPLATE, params=greedy(1))
    assert engine.stats().reused.held_bytes == 0
    runner._prefix.keep = keep
    assert [cached(engine, TEMPLATE) for _ in range(2)] == [0, 48]


def test_a_failed_step_drops_what_was_kept(engine: Engine) -> None:
    runner = runner_of(engine)
    assert [cached(engine, TEMPLATE) for _ in range(2)] == [0, 48]
    forward = runner.forward

    def raising(*args: Any) -> torch.Tensor:
        runner.forward = forward
        raise RuntimeError("the device hiccuped")

    runner.forward = raising
    with pytest.raises(GenerationError):
        ask(engine, TEMPLATE)
    assert engine.stats().reused.held_bytes == 0
    assert [cached(engine, TEMPLATE) for _ in range(2)] == [0, 48]


def test_what_cannot_be_kept_fails_nobody(engine: Engine) -> None:
    runner = runner_of(engine)
    expected = ask(engine, TEMPLATE, None)
    copy = runner._prefix._copy

    def raising(*args: Any) -> bool:
        raise RuntimeError("no memory")

    runner._prefix._copy = raising
    assert ask(engine, TEMPLATE) == expected
    runner._prefix._copy = copy
    assert [cached(engine, TEMPLATE) for _ in range(2)] == [0, 48]
