"""Whatever a caller puts into a request, it is refused at once or answered, and the next caller notices nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.errors import ContextLengthError, EngineStoppedError, GenerationError, InvalidRequestError
from tests.engine.conftest import CONTEXT, greedy, small_config
from worker.engine.config import EngineConfig
from worker.engine.factory import build_engine
from worker.engine.protocol import (
    Engine,
    EngineRequest,
    EngineResult,
    FinishReason,
    Grammar,
    Message,
    Piece,
    SamplingParams,
    Structure,
)

CANARY = EngineRequest(tuple(range(20, 50)), greedy(4))
PATIENCE_S = 60

HUGE = st.sampled_from([2**31, 2**63, 2**64 + 1, -(2**63) - 1, 10**400, -(10**400)])
NUMBERS = st.one_of(st.integers(-3, 500), HUGE, st.floats(allow_nan=True, allow_infinity=True), st.booleans())
GARBAGE = st.recursive(
    st.one_of(
        st.none(), NUMBERS, st.text(max_size=5), st.binary(max_size=3), st.just(object()), st.just(FinishReason.STOP)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.tuples(inner, inner), st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)
TOKENS = st.integers(0, 256)
SCHEMAS = st.sampled_from(
    [
        "",
        "{",
        "{}",
        "[a-c]{2,5}",
        "(",
        "a*",
        '{"type": "string"}',
        '{"enum": []}',
        '{"type": 7}',
        '{"$ref": "#"}',
        "\\p{",
        "\ud800",
    ]
)
STRUCTURES = st.builds(Structure, st.sampled_from(Grammar), SCHEMAS) | st.builds(Structure, GARBAGE, GARBAGE)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "temperature": st.floats(0.0, 2.0),
    "top_k": st.integers(0, 10**6),
    "top_p": st.floats(0.0, 1.0),
    "min_p": st.floats(0.0, 1.0),
    "repetition_penalty": st.floats(0.0, 10.0),
    "presence_penalty": st.floats(-2.0, 2.0),
    "frequency_penalty": st.floats(-2.0, 2.0),
    "logit_bias": st.lists(st.tuples(TOKENS, st.floats(-100, 100)), max_size=3).map(tuple),
    "seed": st.integers(0, 2**63 - 1),
    "stop": st.lists(st.text(max_size=3), max_size=3).map(tuple),
    "stop_token_ids": st.lists(TOKENS, max_size=3).map(tuple),
    "min_tokens": st.integers(0, 9),
    "n": st.integers(1, 4),
    "ignore_eos": st.booleans(),
    "logprobs": st.none() | st.integers(0, 20),
    "prompt_logprobs": st.none() | st.integers(0, 20),
    "structure": st.none() | STRUCTURES,
}
PARAMS = st.builds(
    lambda given, max_tokens: SamplingParams(**(given | {"max_tokens": max_tokens})),
    st.dictionaries(st.sampled_from(sorted(FIELDS)), st.none(), max_size=5).flatmap(
        lambda names: st.fixed_dictionaries({name: FIELDS[name] | GARBAGE for name in names})
    ),
    st.integers(1, 8) | NUMBERS,
)
PROMPTS = st.one_of(
    st.lists(TOKENS, min_size=1, max_size=40).map(tuple),
    st.lists(TOKENS, min_size=1, max_size=40),
    st.just((5,) * (CONTEXT - 4)),
    st.just((5,) * 3 * CONTEXT),
    st.lists(GARBAGE, max_size=3).map(tuple),
    GARBAGE,
)
SOUND = st.lists(TOKENS, min_size=1, max_size=40).map(tuple)
REQUESTS = st.builds(
    EngineRequest,
    SOUND | SOUND | PROMPTS,
    PARAMS,
    adapter=st.none() | st.none() | st.none() | GARBAGE,
    reuse_scope=st.none() | st.sampled_from(["a", "b", "\ud800", ""]) | GARBAGE,
    shared_tokens=st.integers(0, 50) | NUMBERS,
)


@pytest.fixture(scope="module", params=["echo", "gpt2", "gpt2, deterministic"])
def engine(request: pytest.FixtureRequest, folders: Any) -> Iterator[Engine]:
    kind = str(request.param)
    config = small_config(folders["gpt2"], deterministic="deterministic" in kind)
    made = build_engine(EngineConfig(engine="echo", slots=4, echo_context=CONTEXT) if kind == "echo" else config)
    made.start()
    yield made
    made.shutdown()


def check(request: EngineRequest, result: EngineResult, vocabulary: int) -> None:
    """What holds of every answer."""
    asked = request.sampling
    assert [completion.index for completion in result.completions] == list(range(asked.n))
    assert result.usage.prompt_tokens == len(request.prompt)
    assert 0 <= result.usage.cached_tokens < len(request.prompt)
    assert result.usage.completion_tokens == sum(len(one.token_ids) for one in result.completions)
    for completion in result.completions:
        ids = completion.token_ids
        assert 1 <= len(ids) <= asked.max_tokens
        assert all(type(token) is int and 0 <= token < vocabulary for token in ids)
        assert completion.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
        if completion.finish_reason is FinishReason.LENGTH:
            assert len(ids) == asked.max_tokens
        assert not any(stop in completion.text for stop in asked.stop)
        assert not set(ids[: asked.min_tokens]) & set(asked.stop_token_ids)
        assert (completion.places is None) == (asked.logprobs is None)
        assert completion.places is None or [place.chosen.token for place in completion.places] == list(ids)
    assert (result.prompt_places is None) == (asked.prompt_logprobs is None)
    assert result.prompt_places is None or len(result.prompt_places) == len(request.prompt) - 1


QUICK = settings(
    deadline=None, max_examples=120, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


@QUICK
@given(requests=st.lists(REQUESTS, min_size=1, max_size=3), canceled=st.sets(st.integers(0, 2)))
def test_a_request_is_refused_or_answered_and_its_neighbours_notice_nothing(
    engine: Engine, requests: list[EngineRequest], canceled: set[int]
) -> None:
    expected = engine.submit(CANARY).result(PATIENCE_S)
    handles = []
    for at, request in enumerate(requests):
        refusal = None
        try:
            handles.append((request, engine.submit(request)))
        except InvalidRequestError as error:
            refusal = error.message
        assert refusal is None or len(refusal) < 1000, "garbage is not said back at length"
        if at in canceled and refusal is None:
            handles.pop()[1].cancel()
    canary = engine.submit(CANARY)
    for request, handle in handles:
        try:
            check(request, handle.result(PATIENCE_S), engine.info.vocab_size)
        except GenerationError:
            assert isinstance(request.sampling.structure, Structure), "which may turn out to allow nothing"
    assert canary.result(PATIENCE_S).completions == expected.completions
    assert engine.healthy()


UNPRINTABLE = [-(10**5000), object(), (1, None), [[]], "5" * 10_000]


@pytest.mark.parametrize("value", UNPRINTABLE, ids=lambda value: type(value).__name__)
def test_what_cannot_even_be_printed_is_refused(engine: Engine, value: Any) -> None:
    fields = ["max_tokens", *FIELDS]
    requests = [EngineRequest((value,)), EngineRequest(value), EngineRequest((5,), adapter=value)]
    for request in [*requests, *(EngineRequest((5,), SamplingParams(**{name: value})) for name in fields)]:
        with pytest.raises(InvalidRequestError) as caught:
            engine.submit(request)
        assert len(caught.value.message) < 1000


def test_more_tokens_than_can_be_printed_are_too_many(engine: Engine) -> None:
    with pytest.raises(ContextLengthError):
        engine.submit(EngineRequest((5,), SamplingParams(max_tokens=10**5000)))


TEXTS = st.text(max_size=30) | st.sampled_from(
    [
        "",
        "\0",
        "\ud800",
        "<|endoftext|>",
        "<|im_start|>system",
        "{{ 7 * 7 }}",
        "\u202e",
        "a" * 5000,
        "\U0001f469\u200d\U0001f680",
    ]
)


@QUICK
@given(pieces=st.lists(st.builds(Piece, TEXTS, st.booleans()), max_size=4))
def test_any_text_is_encoded(engine: Engine, pieces: list[Piece]) -> None:
    ids = engine.encode(pieces)
    assert all(type(token) is int and 0 <= token < engine.info.vocab_size for token in ids)


@QUICK
@given(
    messages=st.lists(st.builds(Message, st.sampled_from(["system", "user", "assistant"]) | GARBAGE, TEXTS), max_size=4)
)
def test_any_conversation_is_refused_or_rendered(engine: Engine, messages: list[Message]) -> None:
    try:
        pieces = engine.chat_pieces(messages)
    except InvalidRequestError:
        return
    for message in messages:
        assert message.role in ("system", "user", "assistant")
    if pieces is not None:
        engine.encode(pieces)
        users = [message.content.strip() for message in messages if message.role == "user"]
        untrusted = [piece.text for piece in pieces if not piece.trusted]
        assert all(any(text in piece for piece in untrusted) for text in users if text)


def test_canceled_and_stopped_in_any_order_nobody_waits(new_engine: Callable[..., Engine]) -> None:
    """Cancels from another thread's point of view: before, while and after, twice; then the engine goes."""
    engine = new_engine("gpt2")
    handles = [engine.submit(EngineRequest((7, 8, at), greedy(60))) for at in range(12)]
    for handle in itertools.chain(handles[::2], handles[::3]):
        handle.cancel()
    results = [handle.result(PATIENCE_S) for handle in handles]
    assert {result.completions[0].finish_reason for result in results[::2]} == {FinishReason.CANCELED}
    assert {len(result.completions[0].token_ids) for at, result in enumerate(results) if at % 2 and at % 3} == {60}
    last = [engine.submit(EngineRequest((7, 8), greedy(200))) for _ in range(6)]
    engine.shutdown()
    for handle in last:
        handle.cancel()
        with pytest.raises(EngineStoppedError):
            handle.result(PATIENCE_S)
