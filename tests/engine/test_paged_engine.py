"""The engine over pages says what ``model.generate`` says. On a CPU here, with the kernel in plain torch and no CUDA graphs: what a
GPU does otherwise is that kernel and the recording; every number that goes into them is made by the code that runs here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from shared.errors import GenerationError
from tests.engine.conftest import FAMILIES, Listener, greedy, paged_engine, run, submit, tiny_model
from tests.engine.test_greedy_equivalence import generate, make_jobs
from worker.engine.paged_runner import PagedRunner
from worker.engine.protocol import SamplingParams
from worker.engine.transformers_engine import TransformersEngine

PAGE = 8


@pytest.fixture
def paged(folders: dict[str, Path]) -> Iterator[Callable[..., TransformersEngine]]:
    engines: list[TransformersEngine] = []

    def make(folder: str | Path, page_size: int | None = PAGE, **changes: Any) -> TransformersEngine:
        engine = paged_engine(folders.get(str(folder), Path(folder)), page_size, **changes)
        assert isinstance(engine, TransformersEngine)
        engine.start()
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.shutdown()


def runner_of(engine: TransformersEngine) -> PagedRunner:
    runner = engine._started_loop.model.runner
    assert isinstance(runner, PagedRunner)
    return runner


@pytest.mark.parametrize("page_size", [PAGE, None], ids=["pages", "rows"])
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_is_generate_token_by_token(
    family: str, page_size: int | None, folders: dict[str, Path], paged: Callable[..., TransformersEngine],
    tokenizer: PreTrainedTokenizerFast,
) -> None:  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(folders[family]).eval()
    engine = paged(family, page_size)
    jobs = make_jobs(10, len(tokenizer))
    params = [greedy(tokens, repetition_penalty=penalty) for _, tokens, penalty in jobs]
    together = [submit(engine, job[0], param) for job, param in zip(jobs, params, strict=True)]
    answers = [handle.result(60).completions[0].token_ids for handle in together]
    assert answers == [generate(model, *job) for job in jobs]
    assert run(engine, jobs[1][0], params[1]).completions[0].token_ids == answers[1]
    assert runner_of(engine).pool.free == runner_of(engine).pool.pages - 1


def test_sliding_windows_are_kept(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, paged: Callable[..., TransformersEngine]
) -> None:
    types = ["sliding_attention", "full_attention"]
    model = tiny_model("qwen2", len(tokenizer), use_sliding_window=True, sliding_window=8, layer_types=types).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    engine = paged(tmp_path)
    for prompt, tokens, _ in make_jobs(4, len(tokenizer), seed=5):
        assert run(engine, prompt, greedy(tokens)).completions[0].token_ids == generate(model, prompt, tokens, 1.0)


@pytest.mark.parametrize("page_size", [PAGE, None], ids=["pages", "rows"])
@pytest.mark.parametrize("length", [1, 7, 8, 9, 40])
def test_completions_of_one_prompt_share_what_was_computed(
    length: int, page_size: int | None, paged: Callable[..., TransformersEngine], shared_engine: Callable[[str], Any]
) -> None:
    engine, prompt = paged("llama", page_size), tuple(range(5, 5 + length))
    drawn = SamplingParams(max_tokens=20, seed=5, n=3, ignore_eos=True)
    answer = run(engine, prompt, drawn)
    assert answer == run(shared_engine("llama"), prompt, drawn)
    assert len({completion.token_ids for completion in answer.completions}) == 3
    assert runner_of(engine).pool.free == runner_of(engine).pool.pages - 1


def test_greedy_and_drawn_rows_go_together(
    paged: Callable[..., TransformersEngine], shared_engine: Callable[[str], Any]
) -> None:
    engine, prompt = paged("qwen2"), (9, 8, 7, 6)
    every = [greedy(12), SamplingParams(max_tokens=17, seed=3, top_p=0.9, ignore_eos=True), greedy(30),
             greedy(9, repetition_penalty=1.4)]  # fmt: skip
    handles = [submit(engine, prompt, params) for params in every]
    for handle, params in zip(handles, every, strict=True):
        assert handle.result(30) == run(shared_engine("qwen2"), prompt, params)


def test_cancelled_rows_leave_their_pages(paged: Callable[..., TransformersEngine]) -> None:
    engine = paged("gpt2")
    heard = Listener(hold=True)
    long = submit(engine, (5,) * 30, greedy(200), heard)
    others = [submit(engine, (7,) * 50, greedy(150)) for _ in range(6)]
    assert heard.heard.wait(20)
    for handle in others:
        handle.cancel()
    heard.go.set()
    alone = run(engine, (5,) * 30, greedy(200))
    assert long.result(30) == alone
    assert all(handle.result(30).completions[0].finish_reason == "canceled" for handle in others)
    assert runner_of(engine).pool.free == runner_of(engine).pool.pages - 1


def test_a_row_without_numbers_ends_alone(paged: Callable[..., TransformersEngine]) -> None:
    engine = paged("llama")
    healthy = run(engine, (5, 6, 7), greedy(40))
    runner, heard = runner_of(engine), Listener(hold=True)

    def spoils_the_second(**inputs: Any) -> Any:
        output = runner.model(**inputs)
        if inputs["input_ids"].shape[1] == 2:
            output.logits[0, 1, 7] = float("nan")
        return output

    runner.paged.use(spoils_the_second)
    first = submit(engine, (5, 6, 7), greedy(40), heard)
    assert heard.heard.wait(20)
    second = submit(engine, (9,) * 12, greedy(60))
    heard.go.set()
    assert first.result(30) == healthy
    with pytest.raises(GenerationError, match="no numbers"):
        second.result(30)
    assert runner.pool.free == runner.pool.pages - 1


def test_goes_on_after_a_step_that_raised(
    paged: Callable[..., TransformersEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = paged("gpt2")
    before = run(engine, (5, 6, 7), greedy(10))
    runner = runner_of(engine)
    network, calls = runner.paged._network, iter([RuntimeError("out of memory")])

    def fails_once(**inputs: Any) -> Any:
        for error in calls:
            raise error
        return network(**inputs)

    runner.paged.use(fails_once)
    with pytest.raises(GenerationError):
        run(engine, (5, 6, 7), greedy(10))
    assert run(engine, (5, 6, 7), greedy(10)) == before
    assert runner.pool.free == runner.pool.pages - 1


def test_compiled_it_says_the_same(
    folders: dict[str, Path], shared_engine: Callable[[str], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """With dynamo's own backend, which compiles nothing but traces all: two graphs serve every step."""
    engine = paged_engine(folders["llama"], PAGE, "eager")
    assert isinstance(engine, TransformersEngine)
    with caplog.at_level("INFO"):
        engine.start()
    try:
        assert "Compiled in" in caplog.text
        runner, misses = runner_of(engine), torch._dynamo.utils.counters["stats"]["unique_graphs"]
        assert runner.paged._network is not runner.model
        for prompt, tokens in (((5,) * 30, 20), ((7, 8), 9), ((3,), 4)):
            together = [submit(engine, prompt, greedy(tokens + extra)) for extra in range(4)]
            for extra, handle in enumerate(together):
                assert handle.result(60) == run(shared_engine("llama"), prompt, greedy(tokens + extra))
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == misses
    finally:
        engine.shutdown()


def test_where_pages_run_out_rows_wait_and_say_the_same(
    paged: Callable[..., TransformersEngine], shared_engine: Callable[[str], Any]
) -> None:
    config = tiny_model("llama", 8).config
    of_a_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    engine = paged("llama", kv_cache_bytes=of_a_token * PAGE * 16, max_context=100)
    assert runner_of(engine).pool.pages == 16
    jobs = [((5 + at,) * (3 * at + 1), greedy(50 - 4 * at, n=1 + at % 2)) for at in range(8)]
    handles = [submit(engine, prompt, params) for prompt, params in jobs]
    for handle, (prompt, params) in zip(handles, jobs, strict=True):
        assert handle.result(60).completions == run(shared_engine("llama"), prompt, params).completions
    assert engine.stats().preemptions > 0
    assert runner_of(engine).pool.free == 15


@pytest.mark.parametrize("ahead", [True, False])
def test_no_step_is_computed_twice(ahead: bool, paged: Callable[..., TransformersEngine]) -> None:
    """Running ahead computes what the loop asks for next, whoever joins and leaves; of a row that has ended, at most one step more."""
    engine = paged("gpt2")
    runner, decoded = runner_of(engine), list[int]()
    runner.runs_ahead = ahead
    decode = runner.paged.decode

    def counted(rows: Any) -> Any:
        decoded.append(len(rows))
        return decode(rows)

    runner.paged.decode = counted  # type: ignore[method-assign]
    lengths = [3, 9, 14, 20, 1, 30, 7]
    handles = [submit(engine, (5 + at,) * (2 * at + 1), greedy(tokens)) for at, tokens in enumerate(lengths)]
    for handle in handles:
        handle.result(30)
    # The first token of each comes with its prompt, and the others from one row of one decoding step each.
    assert sum(decoded) == sum(lengths) - len(lengths)


def test_what_goes_wrong_ahead_is_done_again(
    paged: Callable[..., TransformersEngine], caplog: pytest.LogCaptureFixture
) -> None:
    engine = paged("gpt2")
    before = run(engine, (5, 6, 7), greedy(10))
    runner, calls = runner_of(engine), iter(range(100))

    def fails_now_and_then(**inputs: Any) -> Any:
        if next(calls) in (2, 3, 5):  # the first is the prompt
            raise RuntimeError("out of memory")
        return runner.model(**inputs)

    runner.paged.use(fails_now_and_then)
    with pytest.raises(GenerationError):  # the third call is made ahead, and the fourth is the step itself
        run(engine, (5, 6, 7), greedy(10))
    assert "begun early" in caplog.text
    runner.paged.use(runner.model)
    assert run(engine, (5, 6, 7), greedy(10)) == before


def test_where_it_fails_only_ahead_nobody_notices(paged: Callable[..., TransformersEngine]) -> None:
    engine = paged("gpt2")
    before = run(engine, (5, 6, 7), greedy(10))
    runner, calls = runner_of(engine), iter(range(100))

    def fails_once(**inputs: Any) -> Any:
        if next(calls) == 2:
            raise RuntimeError("out of memory")
        return runner.model(**inputs)

    runner.paged.use(fails_once)
    assert run(engine, (5, 6, 7), greedy(10)) == before


def test_ends_and_log_probabilities_are_minded(
    paged: Callable[..., TransformersEngine], shared_engine: Callable[[str], Any]
) -> None:
    engine, plain, prompt = paged("llama"), shared_engine("llama"), tuple(range(40, 90))
    first, second, third, *_ = run(plain, prompt, greedy(9)).completions[0].token_ids
    for params in (
        greedy(12, stop_token_ids=(third,)),
        greedy(12, stop_token_ids=(second,), min_tokens=5),
        greedy(12, logit_bias=((first, -100.0),)),
        greedy(8, logprobs=3, prompt_logprobs=2),
        greedy(8, n=2, prompt_logprobs=0),
        SamplingParams(max_tokens=12, seed=4, min_p=0.05, presence_penalty=0.5, logprobs=1, n=2, ignore_eos=True),
    ):
        ours, theirs = (run(one, prompt, params) for one in (engine, plain))
        assert [c.token_ids for c in ours.completions] == [c.token_ids for c in theirs.completions]
        assert [c.finish_reason for c in ours.completions] == [c.finish_reason for c in theirs.completions]
        assert _probabilities(ours.prompt_places) == pytest.approx(_probabilities(theirs.prompt_places), abs=1e-3)
        for mine, other in zip(ours.completions, theirs.completions, strict=True):
            assert _probabilities(mine.places) == pytest.approx(_probabilities(other.places), abs=1e-3)


def _probabilities(places: Any) -> list[float]:
    return [told.logprob for place in places or () for told in (place.chosen, *place.best)]
