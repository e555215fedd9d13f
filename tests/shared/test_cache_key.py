"""A cached result is served only where it must be the same."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from shared.cache import NOT_IN_KEY, cache_key, cacheable
from shared.job import JobSpec, Priority, Structure

SPEC = JobSpec("hi", "general", "demo", temperature=0.5, seed=7)
BASE = cache_key(SPEC, contents="r1", prompt=(1, 2, 3), stop=())


CHANGES: dict[str, Any] = {
    "model": "other", "max_length": 11, "temperature": 0.6, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1,
    "presence_penalty": 1.0, "frequency_penalty": 1.0, "logit_bias": ((1, 1.0),), "seed": 8, "stop_token_ids": (1,), "min_tokens": 1,
    "ignore_eos": True, "n": 2, "logprobs": 0, "echo": True, "structure": Structure("regex", "a"), "adapter": "tea",
}  # fmt: skip


def test_every_field_of_a_job_is_in_the_key_or_known_to_change_nothing():
    """A field that somebody adds has to be in one of the two lists, so that nobody is served what he did not ask for."""
    names = {field.name for field in fields(JobSpec)}
    assert set(CHANGES) | NOT_IN_KEY == names
    assert set(CHANGES) & NOT_IN_KEY == set()


@pytest.mark.parametrize(
    "change", [{name: value} for name, value in CHANGES.items()], ids=lambda change: next(iter(change))
)
def test_whatever_changes_the_answer_changes_the_key(change: dict):
    assert cache_key(replace(SPEC, **change), contents="r1", prompt=(1, 2, 3), stop=()) != BASE


def test_model_prompt_and_stop_change_it_too():
    assert cache_key(SPEC, contents="r2", prompt=(1, 2, 3), stop=()) != BASE
    assert cache_key(SPEC, contents="r1", prompt=(1, 2), stop=()) != BASE
    assert cache_key(SPEC, contents="r1", prompt=(1, 2, 3), stop=("\n",)) != BASE


@pytest.mark.parametrize(
    "change", [{"user_id": "u"}, {"priority": Priority.HIGH}, {"metadata": {"a": "b"}}, {"result_ttl_s": 5}]
)
def test_what_does_not_change_the_answer_does_not(change: dict):
    assert cache_key(replace(SPEC, **change), contents="r1", prompt=(1, 2, 3), stop=()) == BASE


def test_a_greedy_answer_does_not_depend_on_what_only_sampling_reads():
    greedy = replace(SPEC, temperature=0.0)
    other = replace(greedy, seed=1, top_p=0.5, top_k=3, min_p=0.5)
    keys = {cache_key(spec, contents="r1", prompt=(1,), stop=()) for spec in (greedy, other)}
    assert len(keys) == 1


def test_an_echo_is_of_the_text_that_was_given():
    """A tokenizer may make the same tokens of two texts."""
    specs = [
        replace(SPEC, echo=True),
        replace(SPEC, echo=True, prompt="HI"),
        replace(SPEC, echo=True, prompt_token_ids=(1, 2, 3)),
    ]
    assert len({cache_key(spec, contents="r1", prompt=(1, 2, 3), stop=()) for spec in specs}) == 3


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
