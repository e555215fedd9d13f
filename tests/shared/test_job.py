"""The record and the table of transitions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.job import (
    ENDS,
    TRANSITIONS,
    Choice,
    Job,
    JobRef,
    JobSpec,
    JobStatus,
    Outcome,
    Priority,
    Result,
    Structure,
    Usage,
)
from shared.store.records import parse_result

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
token_ids = st.integers(0, 2**31 - 1)
specs = st.builds(
    JobSpec,
    prompt=text,
    mode=text,
    model=text,
    user_id=st.none() | text,
    temperature=st.floats(0, 2),
    top_k=st.integers(0, 1000),
    seed=st.none() | st.integers(0, 2**63 - 1),
    stop=st.lists(text, max_size=3).map(tuple),
    priority=st.sampled_from(Priority),
    metadata=st.dictionaries(text, text, max_size=3),
    cache=st.booleans(),
    min_p=st.floats(0, 1),
    presence_penalty=st.floats(-2, 2),
    frequency_penalty=st.floats(-2, 2),
    logit_bias=st.dictionaries(token_ids, st.floats(-100, 100), max_size=3).map(
        lambda bias: tuple(sorted(bias.items()))
    ),
    stop_token_ids=st.lists(token_ids, max_size=3).map(tuple),
    min_tokens=st.integers(0, 500),
    ignore_eos=st.booleans(),
    logprobs=st.none() | st.integers(0, 20),
    echo=st.booleans(),
    prompt_token_ids=st.lists(token_ids, max_size=3).map(tuple),
    structure=st.none() | st.builds(Structure, st.sampled_from(["json_schema", "regex"]), text),
    adapter=st.none() | text,
)


@given(specs)
def test_a_spec_survives_its_json(spec: JobSpec):
    assert JobSpec.from_json(spec.to_json()) == spec


@given(specs, specs)
def test_fingerprints_are_equal_exactly_for_equal_specs(one: JobSpec, other: JobSpec):
    assert (one.fingerprint() == other.fingerprint()) == (one == other)
    assert one.fingerprint() == JobSpec.from_json(one.to_json()).fingerprint()


def test_json_leaves_out_what_is_default():
    assert (
        JobSpec(prompt="hi", mode="general", model="demo").to_json()
        == '{"prompt":"hi","mode":"general","model":"demo"}'
    )


def test_a_record_of_an_earlier_version_still_loads():
    old = '{"prompt":"hi","mode":"general","model":"demo","max_length":20,"stop":["x"],"priority":"high"}'
    spec = JobSpec.from_json(old)
    assert spec == JobSpec("hi", "general", "demo", max_length=20, stop=("x",), priority=Priority.HIGH)
    assert (spec.logit_bias, spec.prompt_token_ids, spec.structure, spec.logprobs) == ((), (), None, None)
    assert parse_result(
        '{"choices":[{"index":0,"text":"a","finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2,"cached_tokens":0},"cached":false}'
    ) == Result((Choice(0, "a", "stop"),), Usage(1, 2))


def test_a_field_that_is_added_changes_no_older_fingerprint():
    """It is kept with the job: the same PUT after an upgrade is the same."""
    assert JobSpec("hi", "general", "demo", seed=1).fingerprint() == "ab1593560471bceced91ff496c44de71"


def test_every_status_has_a_row_and_succeeded_is_for_ever():
    assert set(TRANSITIONS) == set(JobStatus)
    assert TRANSITIONS[JobStatus.SUCCEEDED] == frozenset()
    for end in ENDS:
        assert TRANSITIONS[end] <= {JobStatus.QUEUED}


def test_an_outcome_is_an_end():
    with pytest.raises(ValueError, match="running"):
        Outcome(JobStatus.RUNNING)


def test_a_ref_names_tenant_and_id():
    assert JobRef.parse(str(JobRef("shop", "a-1"))) == JobRef("shop", "a-1")


def test_durations():
    job = Job(JobRef("t", "i"), JobSpec("p", "m", "x"), JobStatus.QUEUED, "k", created_at=1000)
    assert (job.queue_time_ms, job.execution_time_ms, job.output) == (None, None, None)
    done = job.evolve(started_at=1500, finished_at=4000, choices=(Choice(0, "a", "stop"), Choice(1, "b", "stop")))
    assert (done.queue_time_ms, done.execution_time_ms, done.output) == (500, 2500, "a")
