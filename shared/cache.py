"""The result cache's key: equal only where the result must be the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from shared.job import JobSpec


def cacheable(spec: JobSpec) -> bool:
    """Only a greedy or a seeded answer would come out the same again, and only who does not mind gets a copy."""
    return spec.cache and (spec.temperature == 0 or spec.seed is not None)


def cache_key(spec: JobSpec, *, revision: str, prompt: Sequence[int], stop: Sequence[str]) -> str:
    """A digest of all that the answer depends on.

    revision: the model's. prompt: token ids of the rendered prompt, so template, history and input are in it. The tenant
    is not: the store keeps each tenant's entries under a name of its own.
    """
    greedy = spec.temperature == 0
    sampling = {
        "max_length": spec.max_length,
        "temperature": spec.temperature,
        "top_p": None if greedy else spec.top_p,
        "top_k": None if greedy else spec.top_k,
        "seed": None if greedy else spec.seed,
        "repetition_penalty": spec.repetition_penalty,
        "n": spec.n,
    }
    text = json.dumps([spec.model, revision, list(prompt), list(stop), sampling], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
