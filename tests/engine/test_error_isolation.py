"""What breaks for one request stays with it; what breaks for a step stays with its rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from shared.errors import EngineMemoryError, EngineStoppedError, GenerationError
from tests.engine.conftest import Listener, greedy, run, submit
from worker.engine.protocol import Engine, SamplingParams
from worker.engine.row_sampling import RowSampling

PROMPT = tuple(range(20, 50))
POISON = 13  # a request whose prompt begins with it is the one at fault


def runner_of(engine: Any) -> Any:
    return engine._loop.model.runner


@pytest.fixture
def engine(new_engine: Callable[..., Any]) -> Engine:
    started: Engine = new_engine("gpt2")
    return started


def test_a_row_of_nan_fails_alone_and_leaves_no_nan_behind(engine: Engine) -> None:
    runner = runner_of(engine)
    alone = run(engine, PROMPT, greedy(50))
    forward = runner.forward

    def spoilt(tokens: Any, positions: Any, batch: Any, wanted: Any) -> torch.Tensor:
        logits = forward(tokens, positions, batch, wanted)
        if POISON in tokens:
            for layer in runner.cache.layers:  # as an overflow in the model would: the slot itself is spoilt
                layer.keys[batch.chunks[-1].slot] = torch.nan
                layer.values[batch.chunks[-1].slot] = torch.nan
            logits[-1] = torch.nan
        return logits

    runner.forward = spoilt
    neighbour = submit(engine, PROMPT, greedy(50))
    with pytest.raises(GenerationError):
        run(engine, (POISON, 3), greedy(5))
    assert neighbour.result(30) == alone
    handles = [submit(engine, PROMPT, greedy(50)) for _ in range(6)]
    assert all(handle.result(30) == alone for handle in handles)
    assert engine.healthy()


def test_infinite_logits_fail_their_row(engine: Engine) -> None:
    runner = runner_of(engine)
    forward = runner.forward
    runner.forward = lambda *args: forward(*args).fill_(torch.inf)
    with pytest.raises(GenerationError):
        run(engine, PROMPT, greedy(5))
    runner.forward = forward
    assert run(engine, PROMPT, greedy(5)).usage.completion_tokens == 5


def test_a_step_that_raises_fails_its_rows_and_the_engine_goes_on(engine: Engine) -> None:
    runner = runner_of(engine)
    alone = run(engine, PROMPT, greedy(30))
    forward = runner.forward
    heard = Listener(hold=True)
    running = submit(engine, PROMPT, greedy(100, n=4), heard)
    assert heard.heard.wait(20)
    waiting = submit(engine, PROMPT, greedy(30))

    def raising(*args: Any) -> torch.Tensor:
        runner.forward = forward
        raise RuntimeError("the device hiccuped")

    runner.forward = raising
    heard.go.set()
    with pytest.raises(GenerationError) as caught:
        running.result(30)
    assert "hiccuped" not in caught.value.message, "an internal message must not reach a client"
    assert waiting.result(30) == alone
    assert engine.healthy()


def test_an_engine_that_cannot_recover_says_so_and_lets_nobody_wait(engine: Engine) -> None:
    runner = runner_of(engine)
    heard = Listener(hold=True)
    running = submit(engine, PROMPT, greedy(100, n=4), heard)
    assert heard.heard.wait(20)
    waiting = [submit(engine, PROMPT, greedy(3)) for _ in range(3)]

    def broken(*args: Any) -> torch.Tensor:
        raise RuntimeError("the device is gone")

    runner.forward = broken
    heard.go.set()
    with pytest.raises(GenerationError):
        running.result(30)
    for handle in waiting:
        with pytest.raises(EngineStoppedError):
            handle.result(30)
    assert not engine.healthy()
    with pytest.raises(EngineStoppedError):
        submit(engine, PROMPT, greedy(3))


def test_steps_that_always_fail_end_the_engine_though_its_probe_works(engine: Engine) -> None:
    runner = runner_of(engine)

    def broken(plan: Any) -> list[int | Exception]:
        raise RuntimeError("every step")

    runner.step = broken
    for _ in range(8):
        with pytest.raises(GenerationError):
            run(engine, PROMPT, greedy(3))
    engine._thread.join(10)  # type: ignore[attr-defined]  # the state after the last error, not the error itself
    assert not engine.healthy()


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), MemoryError()])
def test_no_exception_ends_the_loop_in_silence(engine: Engine, error: BaseException) -> None:
    def broken(plan: Any) -> list[int | Exception]:
        raise error

    runner_of(engine).step = broken
    with pytest.raises((EngineStoppedError, GenerationError)):
        run(engine, PROMPT, greedy(3))
    if not isinstance(error, Exception):
        assert not engine.healthy()


def test_a_sampler_that_raises_fails_its_row(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = run(engine, PROMPT, greedy(20))
    sampler = runner_of(engine).sampler
    sample = sampler.sample

    def picky(logits: torch.Tensor, rows: list[RowSampling]) -> list[int | None]:
        if any(row.params.top_k == POISON for row in rows):
            raise RuntimeError("cannot sample this")
        chosen: list[int | None] = sample(logits, rows)
        return chosen

    monkeypatch.setattr(sampler, "sample", picky)
    neighbour = submit(engine, PROMPT, greedy(20))
    with pytest.raises(GenerationError):
        run(engine, PROMPT, greedy(20, top_k=POISON))
    assert neighbour.result(30) == alone


def test_a_row_that_cannot_be_prepared_fails_alone(engine: Engine) -> None:
    runner = runner_of(engine)
    prepare = runner.prepare

    def picky(row: Any) -> None:
        if row.prompt[0] == POISON:
            raise RuntimeError("cannot prepare this")
        prepare(row)

    runner.prepare = picky
    with pytest.raises(GenerationError):
        run(engine, (POISON,), greedy(2))
    assert run(engine, PROMPT, greedy(2)).usage.completion_tokens == 2


def test_a_detokenizer_that_raises_fails_its_row(engine: Any) -> None:
    alone = run(engine, PROMPT, greedy(20))
    tokenization = engine._loop.model.tokenization
    decode = tokenization.decode
    calls = 0

    def picky(ids: Any) -> str:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise RuntimeError("cannot decode this")
        return str(decode(ids))

    tokenization.decode = picky
    try:
        with pytest.raises(GenerationError):
            run(engine, PROMPT, greedy(20))
        assert run(engine, PROMPT, greedy(20)) == alone
    finally:
        tokenization.decode = decode


def poisoned(runner: Any, error: Exception) -> list[int]:
    """Every forward with the poison in it raises. Returns a list that grows with each."""
    forward, raised = runner.forward, list[int]()

    def picky(tokens: Any, *args: Any) -> torch.Tensor:
        if POISON in tokens:
            raised.append(len(tokens))
            raise error
        result: torch.Tensor = forward(tokens, *args)
        return result

    runner.forward = picky
    return raised


def test_of_a_step_that_raises_only_the_culprit_fails(engine: Engine) -> None:
    """Three that run, then one whose tokens make every step raise, then one more: the four good ones say what they say alone."""
    asked = [greedy(40), SamplingParams(max_tokens=40, seed=4, ignore_eos=True), greedy(40, repetition_penalty=1.3)]
    alone = [run(engine, PROMPT, params) for params in [*asked, greedy(5)]]
    raised = poisoned(runner_of(engine), RuntimeError("cannot add this up"))
    heard = [Listener(hold=at == 0) for at in range(3)]
    running = [submit(engine, PROMPT, params, listen) for params, listen in zip(asked, heard, strict=True)]
    assert heard[0].heard.wait(20)
    bad = submit(engine, (3, POISON, 3), greedy(5))
    after = submit(engine, PROMPT, greedy(5))
    heard[0].go.set()
    with pytest.raises(GenerationError):
        bad.result(30)
    assert [handle.result(30) for handle in [*running, after]] == alone
    assert [listener.text() for listener in heard] == [result.completions[0].text for result in alone[:3]]
    assert len(raised) == 2, "once in company, once as the only suspect"
    assert engine.healthy()


def test_a_row_that_goes_bad_later_is_found_too(engine: Engine) -> None:
    """The culprit has run for a while, with others beside it, when its steps begin to raise."""
    alone = run(engine, PROMPT, greedy(40))
    runner, heard = runner_of(engine), Listener(hold=True)
    step = runner.step

    def picky(plan: Any) -> Any:
        if any(row.prompt[0] == POISON and len(row.output) >= 5 for row in plan.rows):
            raise RuntimeError("cannot go on with this")
        return step(plan)

    runner.step = picky
    first = submit(engine, PROMPT, greedy(40), heard)
    assert heard.heard.wait(20)
    bad = submit(engine, (POISON, 3), greedy(20))
    last = submit(engine, PROMPT, greedy(40))
    heard.go.set()
    with pytest.raises(GenerationError):
        bad.result(30)
    assert first.result(30) == last.result(30) == alone
    assert engine.healthy()


def test_one_hiccup_in_company_fails_nobody(engine: Engine) -> None:
    alone = run(engine, PROMPT, greedy(30, n=2))
    runner, heard = runner_of(engine), Listener(hold=True)
    running = [submit(engine, PROMPT, greedy(30, n=2), heard), submit(engine, PROMPT, greedy(30, n=2))]
    assert heard.heard.wait(20)
    forward = runner.forward

    def raising(*args: Any) -> torch.Tensor:
        runner.forward = forward
        raise RuntimeError("the device hiccuped")

    runner.forward = raising
    heard.go.set()
    assert [handle.result(30) for handle in running] == [alone, alone]


def test_hiccups_without_end_end_the_engine_or_its_requests(engine: Engine) -> None:
    """Every third step raises, whoever is in it: nobody waits for ever."""
    runner, steps = runner_of(engine), 0
    step = runner.step

    def moody(plan: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps % 3 == 0:
            raise RuntimeError("once more")
        return step(plan)

    runner.step = moody
    handles = [submit(engine, PROMPT, greedy(100)) for _ in range(9)]
    for handle in handles:
        with pytest.raises((GenerationError, EngineStoppedError)):
            handle.result(30)


MEMORY_ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    RuntimeError("DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("error", MEMORY_ERRORS, ids=lambda error: type(error).__name__)
def test_where_memory_runs_out_steps_become_smaller_and_nobody_fails(
    new_engine: Callable[..., Any], error: Exception
) -> None:
    engine = new_engine("gpt2", token_budget=64)
    alone = [run(engine, PROMPT, greedy(30, n=n)) for n in (1, 2)]
    runner, sizes = runner_of(engine), list[int]()
    forward = runner.forward

    def cramped(tokens: Any, *args: Any) -> torch.Tensor:
        """Memory for 20 tokens in a step."""
        sizes.append(len(tokens))
        if len(tokens) > 20:
            raise error
        result: torch.Tensor = forward(tokens, *args)
        return result

    runner.forward = cramped
    handles = [submit(engine, PROMPT, greedy(30, n=1 + at % 2)) for at in range(6)]
    assert [handle.result(30) for handle in handles] == [alone[at % 2] for at in range(6)]
    assert max(sizes) > 20
    assert sum(size > 20 for size in sizes) < 8
    assert engine.healthy()
    runner.forward = forward
    run(engine, PROMPT, greedy(200))
    chunks = list[int]()
    step = runner.step

    def noted(plan: Any) -> Any:
        chunks.extend(chunk.end for chunk in plan.chunks)
        return step(plan)

    runner.step = noted
    assert run(engine, PROMPT, greedy(30)) == alone[0]
    assert chunks == [len(PROMPT)], "after quiet steps they are as large as before"


def test_a_request_that_does_not_fit_the_memory_even_alone_says_so(engine: Engine) -> None:
    alone = run(engine, PROMPT, greedy(20))
    poisoned(runner_of(engine), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"))
    heard = Listener(hold=True)
    neighbour = submit(engine, PROMPT, greedy(20), heard)
    assert heard.heard.wait(20)
    bad = submit(engine, (POISON,) * 3, greedy(5))
    heard.go.set()
    with pytest.raises(EngineMemoryError) as caught:
        bad.result(30)
    assert (caught.value.code, caught.value.retryable) == ("out_of_memory", True)
    assert "GiB" not in caught.value.message
    assert neighbour.result(30) == alone
    assert engine.healthy()
