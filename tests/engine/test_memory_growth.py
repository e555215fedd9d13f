"""Of requests that are over, nothing is kept; ``benchmarks/soak.py`` asks the same of 10,000 and of the process's whole memory."""

from __future__ import annotations

import gc
import logging
import random
import tracemalloc
from collections.abc import Callable
from typing import Any

from benchmarks.soak import alive, made_to_fail, soak

A_GROUP = 4  # the last plan is kept until the next: a request and its three rows at most


def test_python_keeps_nothing_of_requests_that_are_over(new_engine: Callable[..., Any]) -> None:
    engine = new_engine("gpt2", slots=8, token_budget=64, prefix_cache_bytes=2**18)
    made_to_fail(engine, every=47)
    logging.disable(logging.CRITICAL)  # pytest keeps what is logged, and the frames of each error with it
    before, chance = alive(), random.Random(3)
    soak(engine, chance, 60)
    tracemalloc.start()
    try:
        ends = soak(engine, chance, 200)  # what is bounded, the prefixes' index and torch's own, is full after so many
        gc.collect()
        first, _ = tracemalloc.get_traced_memory()
        ends += soak(engine, chance, 100)
        gc.collect()
        last, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        logging.disable(logging.NOTSET)
    assert {"refused", "canceled", "length", "generation_failed"} <= ends.keys()
    assert last - first < 50_000, "500 bytes a request; a row takes over 1,000"
    assert alive() - before <= A_GROUP
    assert engine.healthy()
