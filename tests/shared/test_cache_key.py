"""A cached result is served only where it must be the same."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared.cache import cache_key, cacheable
from shared.job import JobSpec, Priority

SPEC = JobSpec("hi", "general", "demo", temperature=0.5, seed=7)
BASE = cache_key(SPEC, revision="r1", prompt=(1, 2, 3), stop=())


@pytest.mark.parametrize(
    "change",
    [
        {"max_length": 11},
        {"temperature": 0.6},
        {"top_p": 0.9},
        {"top_k": 5},
        {"seed": 8},
        {"repetition_penalty": 1.1},
        {"n": 2},
        {"model": "other"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_changes_the_answer_changes_the_key(change: dict):
    assert cache_key(replace(SPEC, **change), revision="r1", prompt=(1, 2, 3), stop=()) != BASE


def test_model_prompt_and_stop_change_it_too():
    assert cache_key(SPEC, revision="r2", prompt=(1, 2, 3), stop=()) != BASE
    assert cache_key(SPEC, revision="r1", prompt=(1, 2), stop=()) != BASE
    assert cache_key(SPEC, revision="r1", prompt=(1, 2, 3), stop=("\n",)) != BASE


@pytest.mark.parametrize(
    "change", [{"user_id": "u"}, {"priority": Priority.HIGH}, {"metadata": {"a": "b"}}, {"result_ttl_s": 5}]
)
def test_what_does_not_change_the_answer_does_not(change: dict):
    assert cache_key(replace(SPEC, **change), revision="r1", prompt=(1, 2, 3), stop=()) == BASE


def test_a_greedy_answer_does_not_depend_on_what_only_sampling_reads():
    greedy = replace(SPEC, temperature=0.0)
    other = replace(greedy, seed=1, top_p=0.5, top_k=3)
    keys = {cache_key(spec, revision="r1", prompt=(1,), stop=()) for spec in (greedy, other)}
    assert len(keys) == 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"seed": None}, False),
        ({"seed": None, "temperature": 0.0}, True),
        ({"cache": False}, False),
        ({"seed": 0}, True),
    ],
)
def test_only_what_comes_out_the_same_is_cached(change: dict, expected: bool):
    assert cacheable(replace(SPEC, **change)) is expected
