"""Pages of what was computed before are held again, by those who may, and change no answer."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.errors import GenerationError
from tests.engine.conftest import greedy, paged_engine, tiny_model
from tests.engine.test_paged_engine import PAGE, runner_of
from worker.engine.protocol import EngineRequest, EngineResult, SamplingParams
from worker.engine.transformers_engine import TransformersEngine

TEXT = tuple(range(10, 10 + 5 * PAGE))


@pytest.fixture
def start(folders: dict[str, Path]) -> Iterator[Callable[..., TransformersEngine]]:
    engines: list[TransformersEngine] = []

    def make(**changes: Any) -> TransformersEngine:
        engine = paged_engine(folders["llama"], PAGE, **changes)
        assert isinstance(engine, TransformersEngine)
        engine.start()
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.shutdown()


def ask(
    engine: Any, prompt: tuple[int, ...], scope: str | None = "a", params: SamplingParams | None = None, shared: int = 0
) -> EngineResult:
    request = EngineRequest(prompt, params or greedy(6), reuse_scope=scope, shared_tokens=shared)
    result: EngineResult = engine.submit(request).result(30)
    return result


def test_only_who_may_reuses_and_says_the_same(
    start: Callable[..., TransformersEngine], shared_engine: Callable[[str], Any]
) -> None:
    engine = start()
    plain = ask(shared_engine("llama"), (*TEXT, 7), None).completions
    for scope, shared, cached in (
        ("a", 0, 0), ("a", 0, 5 * PAGE), ("b", 0, 0), (None, 0, 0), ("a", 0, 5 * PAGE),
        ("a", 2 * PAGE + 3, 0), ("c", 2 * PAGE + 3, 2 * PAGE), (None, 2 * PAGE + 3, 2 * PAGE),
    ):  # fmt: skip
        result = ask(engine, (*TEXT, 7), scope, shared=shared)
        assert result.completions == plain
        assert result.usage.cached_tokens == cached
    # The last token is always computed, and of the rest whole pages only.
    assert ask(engine, TEXT).usage.cached_tokens == 4 * PAGE
    assert ask(engine, TEXT[: 2 * PAGE + 5]).usage.cached_tokens == 2 * PAGE
    assert ask(engine, (9, *TEXT)).usage.cached_tokens == 0


def test_an_answer_is_reused_as_a_prompt(start: Callable[..., TransformersEngine]) -> None:
    engine = start()
    first = ask(engine, TEXT[:5], params=greedy(3 * PAGE))
    again = ask(engine, (*TEXT[:5], *first.completions[0].token_ids, 4))
    assert again.usage.cached_tokens == 3 * PAGE
    assert again == ask(engine, (*TEXT[:5], *first.completions[0].token_ids, 4))
    assert engine.stats().reused.hits == 6 * PAGE


def test_zero_bytes_keep_nothing(start: Callable[..., TransformersEngine]) -> None:
    engine = start(prefix_cache_bytes=0)
    assert [ask(engine, TEXT).usage.cached_tokens for _ in range(2)] == [0, 0]
    assert runner_of(engine).pool.free == runner_of(engine).pool.pages - 1


def test_what_went_wrong_is_not_reused(start: Callable[..., TransformersEngine]) -> None:
    engine = start()
    before = ask(engine, TEXT)
    runner = runner_of(engine)

    def spoils(**inputs: Any) -> Any:
        output = runner.model(**inputs)
        output.logits.fill_(float("nan"))
        return output

    runner.paged.use(spoils)
    with pytest.raises(GenerationError):
        ask(engine, TEXT)
    runner.paged.use(runner.model)
    result = ask(engine, TEXT)
    assert (result.completions, result.usage.cached_tokens) == (before.completions, 0)


def test_many_turns_in_little_memory(
    start: Callable[..., TransformersEngine], shared_engine: Callable[[str], Any]
) -> None:
    """Texts that share beginnings, more of them than there are pages for: pages are reused, given up, and never mixed up."""
    config = tiny_model("llama", 8).config
    of_a_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    engine = start(kv_cache_bytes=of_a_token * PAGE * 24, max_context=120)
    dice, plain = random.Random(2), shared_engine("llama")
    stems = [tuple(dice.randrange(3, 400) for _ in range(50)) for _ in range(4)]
    for _ in range(12):
        requests = []
        for _ in range(5):
            prompt = (
                *dice.choice(stems)[: dice.randint(1, 50)],
                *(dice.randrange(3, 400) for _ in range(dice.randint(1, 9))),
            )
            requests.append(
                EngineRequest(prompt, greedy(dice.randint(1, 30), n=dice.choice((1, 1, 2))), reuse_scope="a")
            )
        handles = [engine.submit(request) for request in requests]
        for request, handle in zip(requests, handles, strict=True):
            expected = plain.submit(EngineRequest(request.prompt, request.sampling)).result(60)
            assert handle.result(60).completions == expected.completions
    runner = runner_of(engine)
    assert engine.stats().reused.hits > 100
    assert runner._known is not None
    assert runner.pool.free + len(runner._known) == runner.pool.pages - 1
    runner._known.clear()
    assert runner.pool.free == runner.pool.pages - 1
