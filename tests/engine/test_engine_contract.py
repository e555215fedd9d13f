"""What every engine promises, asked of each: the echo engine, and the slot engine and vLLM over a small random model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from shared.errors import ContextLengthError, EngineStoppedError, GenerationError, InvalidRequestError
from tests.engine.conftest import CONTEXT, VLLM, Listener, greedy, run, submit
from worker.engine.protocol import (
    Engine,
    EngineRequest,
    FinishReason,
    Grammar,
    Message,
    Piece,
    SamplingParams,
    Structure,
)

ENGINES = ("echo", "gpt2", "paged", VLLM)
TEXT = "The quick brown fox 今天天氣很好 😀🎉 café."

pytestmark = pytest.mark.parametrize("kind", ENGINES)


@pytest.fixture
def engine(kind: str, new_engine: Callable[..., Engine], vllm_engine: Callable[[], Engine]) -> Engine:
    return vllm_engine() if kind == "vllm" else new_engine(kind)


@pytest.fixture
def prompt(engine: Engine) -> tuple[int, ...]:
    return engine.encode([Piece(TEXT)])


def test_says_what_it_is(engine: Engine, kind: str) -> None:
    assert engine.healthy()
    assert (engine.info.slots, engine.info.context_length) == (4, CONTEXT)
    assert engine.info.engine == {"gpt2": "transformers", "paged": "transformers"}.get(kind, kind)


def test_ends_at_max_tokens(engine: Engine, prompt: tuple[int, ...]) -> None:
    result = run(engine, prompt, greedy(25))
    (completion,) = result.completions
    assert completion.finish_reason is FinishReason.LENGTH
    assert len(completion.token_ids) == 25
    assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (len(prompt), 25)


@pytest.mark.parametrize("tokens", [1, 2, 7, 60])
def test_deltas_add_up_to_the_text(engine: Engine, prompt: tuple[int, ...], tokens: int) -> None:
    heard = Listener()
    result = run(engine, prompt, greedy(tokens), heard)
    assert heard.text() == result.completions[0].text
    assert sum(delta.token_count for delta in heard.deltas) == tokens


def test_half_characters_are_never_shown(engine: Engine, prompt: tuple[int, ...], kind: str) -> None:
    heard = [Listener() for _ in range(8)]
    for tokens, listener in enumerate(heard, start=20):
        assert not run(engine, prompt, greedy(tokens), listener).completions[0].text.endswith("\ufffd")
    if kind == "echo":
        assert not any("\ufffd" in delta.text for listener in heard for delta in listener.deltas)


def test_completions_come_in_order_and_the_prompt_counts_once(engine: Engine, prompt: tuple[int, ...]) -> None:
    heard = Listener()
    result = run(engine, prompt, greedy(9, n=3), heard)
    assert [completion.index for completion in result.completions] == [0, 1, 2]
    assert len({completion.token_ids for completion in result.completions}) == 1
    assert [heard.text(index) for index in range(3)] == [completion.text for completion in result.completions]
    assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (len(prompt), 27)


def test_same_request_same_answer(engine: Engine, prompt: tuple[int, ...]) -> None:
    for params in (greedy(20), SamplingParams(max_tokens=20, seed=5, top_p=0.9, ignore_eos=True)):
        assert run(engine, prompt, params) == run(engine, prompt, params)


def test_ends_before_a_stop_string(engine: Engine, prompt: tuple[int, ...]) -> None:
    free = run(engine, prompt, greedy(60)).completions[0].text
    for start in range(0, len(free) - 4, 3):
        stop = free[start : start + 4]
        heard = Listener()
        (completion,) = run(engine, prompt, greedy(60, stop=("never to be found", stop)), heard).completions
        assert completion.finish_reason is FinishReason.STOP
        assert completion.text == heard.text() == free[: free.index(stop)]


def test_a_stop_string_that_does_not_come_holds_nothing_back(engine: Engine, prompt: tuple[int, ...]) -> None:
    free = run(engine, prompt, greedy(30)).completions[0]
    heard = Listener()
    same = run(engine, prompt, greedy(30, stop=(free.text[-3:] + "!",)), heard).completions[0]
    assert same == free
    assert heard.text() == free.text


def test_more_requests_than_slots(engine: Engine, prompt: tuple[int, ...]) -> None:
    before = engine.stats().generated_tokens
    alone = [run(engine, prompt[: 3 + at], greedy(5 + at)) for at in range(12)]
    handles = [submit(engine, prompt[: 3 + at], greedy(5 + at)) for at in range(12)]
    assert [handle.result(30) for handle in handles] == alone
    stats = engine.stats()
    assert (stats.running, stats.waiting) == (0, 0)
    assert stats.generated_tokens - before == 2 * sum(5 + at for at in range(12))


def test_stats_tell_running_from_waiting(engine: Engine, prompt: tuple[int, ...]) -> None:
    heard = Listener(hold=True)
    handles = [submit(engine, prompt, greedy(100, n=4), heard)]
    assert heard.heard.wait(20)
    handles += [submit(engine, prompt, greedy(3)) for _ in range(3)]
    assert engine.stats().waiting == 3
    heard.go.set()
    for handle in handles:
        handle.result(30)
    assert engine.stats().steps >= 100


def test_cancel_while_waiting(engine: Engine, prompt: tuple[int, ...]) -> None:
    heard = Listener(hold=True)
    first = submit(engine, prompt, greedy(100, n=4), heard)
    assert heard.heard.wait(20)
    waiting = submit(engine, prompt, greedy(5))
    waiting.cancel()
    waiting.cancel()
    heard.go.set()
    result = waiting.result(30)
    assert result.completions[0].finish_reason is FinishReason.CANCELED
    assert (result.completions[0].text, result.usage.completion_tokens) == ("", 0)
    assert len(first.result(30).completions[3].token_ids) == 100


def test_cancel_while_running_keeps_what_is_there(engine: Engine, prompt: tuple[int, ...]) -> None:
    whole = run(engine, prompt, greedy(150)).completions[0]
    heard = Listener(hold=True)
    handle = submit(engine, prompt, greedy(150), heard)
    assert heard.heard.wait(20)
    assert not handle.done()
    handle.cancel()
    heard.go.set()
    result = handle.result(30)
    (completion,) = result.completions
    assert completion.finish_reason is FinishReason.CANCELED
    assert 0 < result.usage.completion_tokens < 150
    assert completion.token_ids == whole.token_ids[: result.usage.completion_tokens]
    assert completion.text == heard.text()
    assert whole.text.startswith(completion.text)
    assert engine.stats().running == 0
    assert run(engine, prompt, greedy(150)).completions[0] == whole


def test_cancel_after_the_end_changes_nothing(engine: Engine, prompt: tuple[int, ...]) -> None:
    handle = submit(engine, prompt, greedy(4))
    result = handle.result(30)
    handle.cancel()
    assert handle.done()
    assert handle.result(0) is result


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3)])
def test_a_listener_that_raises_fails_only_its_own_request(
    engine: Engine, prompt: tuple[int, ...], error: BaseException
) -> None:
    def raising(delta: object) -> None:
        raise error

    alone = run(engine, prompt, greedy(40))
    neighbour = submit(engine, prompt, greedy(40))
    with pytest.raises(GenerationError):
        run(engine, prompt, greedy(40, n=2), raising)
    assert neighbour.result(30) == alone
    assert engine.healthy()


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("max_tokens", 0), ("max_tokens", -1), ("max_tokens", 1.5), ("max_tokens", True),
        ("temperature", -0.1), ("temperature", 2.1), ("temperature", math.nan), ("temperature", math.inf),
        ("temperature", "1"), ("top_p", 0.0), ("top_p", 1.1), ("top_p", math.nan), ("top_k", -1), ("top_k", 2.0),
        ("repetition_penalty", 0.0), ("repetition_penalty", -1.0), ("repetition_penalty", 10.5),
        ("n", 0), ("n", 5), ("seed", -1), ("seed", 2**63), ("seed", 2**64), ("seed", 1.0),
        ("stop", ("",)), ("stop", ("x",) * 17), ("stop", "text"), ("stop", (1,)),
        ("min_tokens", -1), ("min_tokens", 101), ("min_tokens", True), ("min_p", -0.1), ("min_p", 1.1),
        ("min_p", math.nan), ("presence_penalty", -2.1), ("presence_penalty", 2.1), ("presence_penalty", None),
        ("frequency_penalty", -2.1), ("frequency_penalty", math.inf), ("stop_token_ids", (-1,)),
        ("stop_token_ids", (10**9,)), ("stop_token_ids", (1,) * 65), ("stop_token_ids", [1]),
        ("stop_token_ids", (True,)), ("logit_bias", ((1, 100.5),)), ("logit_bias", ((1, math.nan),)),
        ("logit_bias", ((-1, 1.0),)), ("logit_bias", ((10**9, 1.0),)), ("logit_bias", ((1, 1.0), (1, 2.0))),
        ("logit_bias", ((1,),)), ("logit_bias", {1: 1.0}), ("logit_bias", tuple((at, 1.0) for at in range(301))),
        ("logprobs", -1), ("logprobs", 21), ("logprobs", True), ("prompt_logprobs", 21), ("prompt_logprobs", 0.5),
        ("structure", "{}"), ("structure", Structure(Grammar.REGEX, "")), ("structure", Structure("regex", "a")),
        ("structure", Structure(Grammar.JSON_SCHEMA, " " * 65_537)),
    ],
)  # fmt: skip
def test_refuses_what_is_out_of_range(engine: Engine, param: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        engine.submit(EngineRequest((1,), SamplingParams(**{param: value})))
    assert caught.value.param == param


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 2.0}, {"temperature": 1e-300}, {"temperature": 1}, {"top_p": 1e-9}, {"top_k": 10**12},
        {"top_k": 1}, {"repetition_penalty": 10.0}, {"repetition_penalty": 1e-300}, {"n": 4}, {"seed": 0},
        {"seed": 2**63 - 1, "n": 2}, {"stop": ("x",) * 16}, {"max_tokens": CONTEXT - 2}, {"min_p": 1.0}, {"min_p": 1},
        {"presence_penalty": -2.0, "frequency_penalty": 2.0}, {"presence_penalty": 2, "frequency_penalty": -2},
        {"min_tokens": 4}, {"stop_token_ids": tuple(range(64))}, {"stop_token_ids": (5,) * 64, "min_tokens": 4},
        {"logit_bias": tuple((at % 257, 100.0 - at) for at in range(200))}, {"logit_bias": ((0, -100),)},
    ],
)  # fmt: skip
def test_serves_what_is_just_in_range(engine: Engine, changes: dict[str, Any]) -> None:
    params = SamplingParams(**({"max_tokens": 4, "ignore_eos": True} | changes))
    result = run(engine, (65, 66), params)
    assert all(completion.token_ids for completion in result.completions)
    assert engine.healthy()


def test_refuses_adapters_that_it_has_not(engine: Engine) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        engine.submit(EngineRequest((1,), greedy(1), adapter="nobody"))
    assert caught.value.param == "adapter"


def test_an_engine_without_a_model_refuses_what_needs_one(engine: Engine, kind: str) -> None:
    for params in ({"logprobs": 0}, {"prompt_logprobs": 3}, {"structure": Structure(Grammar.REGEX, "a+")}):
        request = EngineRequest((65, 66), SamplingParams(max_tokens=4, **params))
        if kind == "echo":
            with pytest.raises(InvalidRequestError) as caught:
                engine.submit(request)
            assert caught.value.param in params
        else:
            assert engine.submit(request).result(30).completions


@pytest.mark.parametrize("tokens", [(), (-1,), (10**9,), (1.0,), (True,)])
def test_refuses_prompts_that_are_none(engine: Engine, tokens: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        engine.submit(EngineRequest(tokens, greedy(1)))
    assert caught.value.param == "prompt"


def test_refuses_what_does_not_fit_the_context(engine: Engine) -> None:
    assert run(engine, (65,) * (CONTEXT - 1), greedy(1)).usage.total_tokens == CONTEXT
    with pytest.raises(ContextLengthError):
        engine.submit(EngineRequest((65,) * (CONTEXT - 1), greedy(2)))


def test_refuses_roles_that_nobody_knows(engine: Engine) -> None:
    for messages in ([], [Message("wizard", "x")]):
        with pytest.raises(InvalidRequestError):
            engine.chat_pieces(messages)


def test_wait_ends_at_its_timeout(engine: Engine, prompt: tuple[int, ...]) -> None:
    heard = Listener(hold=True)
    handle = submit(engine, prompt, greedy(50), heard)
    with pytest.raises(TimeoutError):
        handle.result(0.01)
    heard.go.set()
    handle.result(30)


def test_after_shutdown_nothing_is_taken(engine: Engine, prompt: tuple[int, ...]) -> None:
    engine.shutdown()
    engine.shutdown()
    assert not engine.healthy()
    with pytest.raises(EngineStoppedError):
        submit(engine, prompt, greedy(1))


def test_shutdown_without_drain_fails_what_runs_and_what_waits(engine: Engine, prompt: tuple[int, ...]) -> None:
    heard = Listener(hold=True)
    handles = [submit(engine, prompt, greedy(150, n=4), heard), submit(engine, prompt, greedy(5))]
    assert heard.heard.wait(20)
    heard.go.set()
    engine.shutdown()
    for handle in handles:
        with pytest.raises(EngineStoppedError):
            handle.result(5)


def test_drain_lets_running_ones_end_and_hands_waiting_ones_back(engine: Engine, prompt: tuple[int, ...]) -> None:
    heard = Listener(hold=True)
    running = submit(engine, prompt, greedy(60, n=4), heard)
    assert heard.heard.wait(20)
    waiting = submit(engine, prompt, greedy(5))
    heard.go.set()
    engine.shutdown(drain_s=30)
    assert len(running.result(0).completions[0].token_ids) == 60
    with pytest.raises(EngineStoppedError):
        waiting.result(0)


def test_text_survives_its_tokens(engine: Engine) -> None:
    texts = [TEXT, " leading", "trailing \n", "{{ x }} {% if %}", "<|endoftext|><|im_start|>system\n", "\ud800"]
    for text in texts:
        ids = engine.encode([Piece(text)])
        assert ids
        assert all(0 <= token < engine.info.vocab_size for token in ids)
    assert engine.encode([Piece(TEXT[:9]), Piece(TEXT[9:])]) == engine.encode([Piece(TEXT)])


def test_a_second_start_is_refused(engine: Engine) -> None:
    with pytest.raises(RuntimeError):
        engine.start()
