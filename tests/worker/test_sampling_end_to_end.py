"""From a job to its record through the real engine on the bundled model: what was asked for is what comes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from shared.job import Job, JobStatus, Structure
from shared.logprobs import unpack
from shared.settings import DEMO_MODEL
from shared.store.memory import MemoryStore
from tests.worker.conftest import make_runner, submit
from worker.engine.factory import EngineConfig, build_engine
from worker.engine.protocol import Engine, Piece

Run = Callable[..., Job]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = build_engine(EngineConfig(model_id=str(DEMO_MODEL), slots=4, max_context=512))
    engine.start()
    yield engine
    engine.shutdown()


@pytest.fixture
def run(store: MemoryStore, engine: Engine) -> Run:
    runner = make_runner(store, engine)

    def go(prompt: str = "What should I know before a day hike?", **spec) -> Job:
        ref = submit(store, prompt, **spec)
        runner.run(ref)
        return store.get(ref)

    return go


def tokens(job: Job, index: int = 0) -> list[int]:
    return [place.chosen.token for place in unpack(job.choices[index].logprobs or "")]


def test_a_greedy_answer_is_the_best_token_at_each_place(run: Run):
    job = run(logprobs=3)
    places = unpack(job.choices[0].logprobs)
    assert len(places) == job.usage.completion_tokens
    for place in places:
        assert place.chosen == place.best[0]
        logprobs = [token.logprob for token in place.best]
        assert len(place.best) == 3
        assert logprobs == sorted(logprobs, reverse=True)
        assert sum(map(math.exp, logprobs)) <= 1.001
    assert all(place.best == () for place in unpack(run(logprobs=0).choices[0].logprobs))


def test_a_stream_tells_each_token_once(run: Run, store: MemoryStore):
    job = run(logprobs=1, n=2, temperature=1.0, seed=3)
    told = [event.new_text for event in store.log(job.ref, 2, 1000).entries]
    for choice in job.choices:
        said = [each for each in told if each.index == choice.index]
        assert "".join(each.text for each in said) == choice.text
        assert tuple(place for each in said for place in each.places) == unpack(choice.logprobs)


def test_token_ids_are_read_as_they_are_and_echoed(run: Run, engine: Engine):
    ids = engine.encode([Piece("A red kettle")])
    job = run("", prompt_token_ids=ids, echo=True, logprobs=1)
    assert (job.status, job.usage.prompt_tokens) == (JobStatus.SUCCEEDED, len(ids))
    prompt = unpack(job.echo.logprobs)
    assert [place.chosen.token for place in prompt] == list(ids)
    assert prompt[0].chosen.logprob is None
    assert all(place.chosen.logprob <= place.best[0].logprob <= 0 for place in prompt[1:])
    assert job.echo.text == engine.decode(ids)


def test_biases_and_stop_tokens_are_held_to(run: Run):
    plain = tokens(run(logprobs=0))
    banned = tokens(run(logprobs=0, logit_bias=((plain[0], -100.0),)))
    assert plain[0] not in banned
    wanted = tokens(run(logprobs=0, logit_bias=((banned[0], 100.0),), max_length=10))
    assert set(wanted) == {banned[0]}
    stopped = run(logprobs=0, stop_token_ids=(plain[2],))
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.usage.completion_tokens <= 3
    longer = run(logprobs=0, stop_token_ids=(plain[2],), min_tokens=12)
    assert longer.usage.completion_tokens >= 12
    assert run(ignore_eos=True, max_length=60).usage.completion_tokens == 60


def test_an_answer_matches_what_it_has_to(run: Run):
    # Strings of known texts: white space between the parts of an object could take a small model all its tokens.
    choices = ["a warm drink", "a cold drink"]
    job = run(structure=Structure("json_schema", json.dumps({"enum": choices})), max_length=40)
    assert job.choices[0].finish_reason == "stop", job.output
    assert json.loads(job.output) in choices
    digits = run(structure=Structure("regex", "[0-9]{3}-[a-c]{2}"), temperature=1.0, seed=1, n=3)
    assert all(re.fullmatch("[0-9]{3}-[a-c]{2}", choice.text) for choice in digits.choices)


@pytest.mark.parametrize(
    ("spec", "param"),
    [
        ({"structure": Structure("json_schema", '{"type":"tea"}')}, "structure"),
        ({"structure": Structure("regex", "(")}, "structure"),
        ({"adapter": "tea"}, "adapter"),
        ({"logit_bias": ((2**31 - 1, 1.0),)}, "logit_bias"),
        ({"stop_token_ids": (2**31 - 1,)}, "stop_token_ids"),
    ],
)
def test_what_the_engine_cannot_do_ends_the_job_for_good(run: Run, spec: dict, param: str):
    job = run(**spec)
    assert job.status is JobStatus.FAILED, param
    assert (job.error.code, job.error.retryable) == ("invalid_request", False)
    assert run().status is JobStatus.SUCCEEDED


def test_an_end_names_what_it_depends_on(run: Run, engine: Engine):
    job = run()
    assert job.system_fingerprint == engine.info.system_fingerprint
    assert job.system_fingerprint


def test_tokens_that_were_reused_are_counted_up_to_the_usage_of_the_day(run: Run, store: MemoryStore):
    """The same prompt again, and not out of the result cache: its computation is reused, and the record and the usage say so."""
    first, second = (run("Where can I rent a tent for two, and for how long?", cache=False) for _ in range(2))
    assert 0 < second.usage.cached_tokens < second.usage.prompt_tokens
    assert second.output == first.output
    today = datetime.now(UTC).date()
    (row,) = store.usage("shop", today, today)
    assert row.cached_tokens == first.usage.cached_tokens + second.usage.cached_tokens
    assert row.prompt_tokens == first.usage.prompt_tokens + second.usage.prompt_tokens
