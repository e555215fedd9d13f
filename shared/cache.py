"""The result cache's key: equal only where the result must be the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import fields

from shared.job import JobSpec


def cacheable(spec: JobSpec) -> bool:
    """Only a greedy or a seeded answer would come out the same again, and only who does not mind gets a copy."""
    return spec.cache and (spec.temperature == 0 or spec.seed is not None)


NOT_IN_KEY = frozenset(
    {
        # what the model reads of them is in the rendered prompt and its stop strings
        "prompt", "prompt_token_ids", "mode", "stop",
        # who asks, when it runs and what is kept of it
        "user_id", "priority", "queue_timeout_s", "execution_timeout_s", "result_ttl_s", "cache", "metadata", "webhook", "webhook_events_filter",
    }
)  # fmt: skip
"""Fields of a job that change nothing about its result. Every other one is in the key, also one that is added later."""

ONLY_SAMPLED = frozenset({"top_p", "top_k", "min_p", "seed"})
"""Fields that a greedy answer does not depend on."""


def cache_key(spec: JobSpec, *, contents: str, prompt: Sequence[int], stop: Sequence[str]) -> str:
    """A digest of all that the result depends on: the tokens, and what is told of them.

    contents: of the model and its adapters, as the engine tells them. prompt: token ids of the rendered prompt, so template,
    history and input are in it. The tenant is not: the store keeps each tenant's entries under a name of its own.
    """
    left_out = NOT_IN_KEY | (ONLY_SAMPLED if spec.temperature == 0 else set())
    asked = {field.name: getattr(spec, field.name) for field in fields(spec) if field.name not in left_out}
    # An echo is the text that was given; two texts may be the same tokens.
    given = [spec.prompt, bool(spec.prompt_token_ids)] if spec.echo else None
    text = json.dumps([contents, list(prompt), list(stop), asked, given], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
