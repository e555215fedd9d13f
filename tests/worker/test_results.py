"""What a job asks of the engine, and what becomes of what the engine brought."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import pytest

from shared.job import Choice, JobSpec, JobStatus, PromptEcho, Structure, Usage
from shared.logprobs import Place, TokenLogprob, unpack
from shared.store.memory import MemoryStore
from shared.store.protocol import JobFilter
from tests.worker.conftest import make_runner, submit
from worker.engine import protocol
from worker.engine.protocol import (
    Completion,
    Delta,
    Engine,
    EngineRequest,
    EngineResult,
    FinishReason,
    Grammar,
    OnDelta,
    SamplingParams,
)
from worker.prompts import Prompt
from worker.results import sampling_of

INFINITE = float("-inf")


def place(token: int, text: str, logprob: float, *best: tuple[int, str, float]) -> protocol.Place:
    return protocol.Place(
        protocol.TokenLogprob(token, text, logprob), tuple(protocol.TokenLogprob(*each) for each in best)
    )


PLACES = (place(5, " a", -0.123456789, (5, " a", -0.123456789), (7, " b", INFINITE)), place(9, "c", -2.0))
KEPT = (
    Place(TokenLogprob(5, " a", -0.12346), (TokenLogprob(5, " a", -0.12346), TokenLogprob(7, " b", -9999.0))),
    Place(TokenLogprob(9, "c", -2.0)),
)


class TellingEngine:
    """The echo engine, that answers at once with what an engine tells that knows log-probabilities."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.info = replace(engine.info, system_fingerprint="fp_1", vocab_size=100)
        self.requests: list[EngineRequest] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    def submit(self, request: EngineRequest, on_delta: OnDelta | None = None) -> Answered:
        self.requests.append(request)
        sampling = request.sampling
        told = sampling.logprobs is not None
        for index in range(sampling.n):
            for delta in (
                Delta(index, " a", 1, PLACES[:1] if told else ()),
                Delta(index, "c", 1, PLACES[1:] if told else ()),
            ):
                (on_delta or print)(delta)
        completions = tuple(
            Completion(index, " ac", FinishReason.STOP, (5, 9), PLACES if told else None) for index in range(sampling.n)
        )
        before = tuple(place(token, chr(token), -1.0) for token in request.prompt[1:])
        usage = protocol.Usage(len(request.prompt), 2 * sampling.n, 1)
        return Answered(
            EngineResult(completions, usage, 0.01, before if sampling.prompt_logprobs is not None else None)
        )


class Answered:
    """A generation that is over."""

    def __init__(self, result: EngineResult) -> None:
        self._result = result

    def result(self, timeout_s: float | None = None) -> EngineResult:
        del timeout_s
        return self._result

    def cancel(self) -> None:
        return

    def done(self) -> bool:
        return True


@pytest.fixture
def engine(echo: Engine) -> TellingEngine:
    return TellingEngine(echo)


Run = Callable[..., object]


@pytest.fixture
def run(store: MemoryStore, engine: TellingEngine) -> Run:
    """Submits a job, runs it, and returns its record."""
    runner = make_runner(store, engine)  # type: ignore[arg-type]  # all that a runner uses is there

    def go(prompt: str = "hello", **spec):
        ref = submit(store, prompt, **spec)
        runner.run(ref)
        return store.get(ref)

    return go


def said(store: MemoryStore, job) -> list:
    return [event.new_text for event in store.log(job.ref, 2, 100).entries]


def test_everything_that_a_job_says_about_sampling_reaches_the_engine():
    spec = JobSpec(
        "p", "general", "m", max_length=20, temperature=0.3, top_p=0.9, top_k=3, min_p=0.1, repetition_penalty=1.1, presence_penalty=0.2,
        frequency_penalty=-0.3, logit_bias=((1, 2.0),), seed=4, stop=("x",), stop_token_ids=(8,), min_tokens=7, n=2, ignore_eos=True,
        logprobs=5, structure=Structure("regex", "a+"), prompt_token_ids=(1, 2), echo=True,
    )  # fmt: skip
    params = sampling_of(spec, Prompt((1, 2), ("x", "\n"), 0, echo="ab"))
    assert params == SamplingParams(
        max_tokens=20, temperature=0.3, top_k=3, top_p=0.9, min_p=0.1, repetition_penalty=1.1, presence_penalty=0.2,
        frequency_penalty=-0.3, logit_bias=((1, 2.0),), seed=4, stop=("x", "\n"), stop_token_ids=(8,), min_tokens=7, n=2,
        ignore_eos=True, logprobs=5, prompt_logprobs=5, structure=protocol.Structure(Grammar.REGEX, "a+"),
    )  # fmt: skip
    untouched = {field.name for field in fields(SamplingParams) if getattr(params, field.name) == field.default}
    assert untouched == set(), "a new parameter has to be asked for, and tested here"


def test_more_tokens_at_least_than_at_most_are_as_many():
    spec = JobSpec("p", "general", "m", max_length=20, min_tokens=500)
    assert sampling_of(spec, Prompt((1,), (), 0)).min_tokens == 20


def test_the_adapter_is_asked_for(run: Run, engine: TellingEngine):
    run(adapter="tea")
    run()
    assert [request.adapter for request in engine.requests] == ["tea", None]


class TestLogprobs:
    def test_they_are_kept_with_the_job_and_told_in_its_stream(self, run: Run, store: MemoryStore):
        job = run(logprobs=1, n=2)
        assert job.status is JobStatus.SUCCEEDED
        assert [unpack(choice.logprobs) for choice in job.choices] == [KEPT, KEPT]
        assert [(text.index, text.text, text.places) for text in said(store, job)] == [
            (0, " ac", KEPT),
            (1, " ac", KEPT),
        ]
        assert (job.system_fingerprint, job.usage) == ("fp_1", Usage(job.usage.prompt_tokens, 4, 1))

    def test_without_asking_there_are_none(self, run: Run, store: MemoryStore):
        job = run()
        assert job.choices == (Choice(0, " ac", "stop"),)
        assert [(text.text, text.places) for text in said(store, job)] == [(" ac", ())]

    def test_a_cached_copy_has_them_and_another_request_is_no_copy(
        self, run: Run, store: MemoryStore, engine: TellingEngine
    ):
        first, plain, again, more = run(logprobs=1), run(), run(logprobs=1), run(logprobs=2)
        assert [job.cached for job in (first, plain, again, more)] == [False, False, True, False]
        assert (again.choices, again.system_fingerprint) == (first.choices, "fp_1")
        assert [(text.text, text.places) for text in said(store, again)] == [(" ac", KEPT)]
        assert len(engine.requests) == 3


class TestTokenIds:
    def test_the_model_reads_them_and_nothing_else(self, run: Run, engine: TellingEngine, store: MemoryStore):
        run("turn", user_id="u")
        job = run("", prompt_token_ids=(65, 66), mode="support", user_id="u", stop=("END",))
        assert engine.requests[-1].prompt == (65, 66)
        assert engine.requests[-1].sampling.stop == ("END",)
        assert job.usage.prompt_tokens == 2
        assert [turn.input for turn in store.history("shop", "u")] == ["turn"]

    def test_one_that_the_model_does_not_have_ends_the_job_with_a_clear_error(self, run: Run, engine: TellingEngine):
        job = run("", prompt_token_ids=(65, 100))
        assert job.status is JobStatus.FAILED
        assert (job.error.code, job.error.retryable) == ("invalid_request", False)
        assert "token 1 is 100" in job.error.message
        assert engine.requests == []

    def test_they_have_to_fit_the_context(self, run: Run):
        job = run("", prompt_token_ids=(65,) * 4080)
        assert job.error.code == "context_length_exceeded"
        assert run("", prompt_token_ids=(65,) * 4076).status is JobStatus.SUCCEEDED


class TestEcho:
    def test_the_text_stands_before_each_answer(self, run: Run, store: MemoryStore):
        job = run("héllo", echo=True, n=2, user_id="u", logprobs=0)
        assert job.echo == PromptEcho("héllo")  # of a text no logprobs are told: the model reads a template too
        assert [choice.text for choice in job.choices] == [" ac", " ac"]
        assert [(text.index, text.text) for text in said(store, job)] == [(0, "héllo ac"), (1, "héllo ac")]
        assert [turn.output for turn in store.history("shop", "u")] == [" ac"]

    def test_token_ids_are_echoed_as_text_with_their_logprobs(self, run: Run, store: MemoryStore):
        job = run("", prompt_token_ids=(65, 66), echo=True, logprobs=0)
        assert job.echo.text == "AB"
        assert unpack(job.echo.logprobs) == (Place(TokenLogprob(65, "A", None)), Place(TokenLogprob(66, "B", -1.0)))
        assert "".join(text.text for text in said(store, job)) == "AB ac"
        assert run("", prompt_token_ids=(65, 66), echo=True).echo == PromptEcho("AB")

    def test_a_cached_copy_echoes_too(self, run: Run, store: MemoryStore):
        jobs = [run("", prompt_token_ids=(65, 66), echo=True, logprobs=0) for _ in range(2)]
        assert [job.cached for job in jobs] == [False, True]
        assert jobs[0].echo == jobs[1].echo
        assert "".join(text.text for text in said(store, jobs[1])) == "AB ac"


def test_jobs_are_listed_whatever_they_brought(run: Run, store: MemoryStore):
    run(logprobs=1)
    assert len(store.list_jobs("shop", JobFilter(), None, 10).data) == 1
