"""What breaks for one request stays with it; what breaks for a step stays with its rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from shared.errors import EngineStoppedError, GenerationError
from tests.engine.conftest import Listener, greedy, run, submit
from worker.engine.protocol import Engine
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
