"""The same request gives the same tokens alone, in a full batch, however prompts are cut, and begun again after some tokens.

In the deterministic mode the logits are the same to the last bit. Without it they differ in the last bits, and tokens only at a
near tie: so those tests are of tokens, and of models whose logits lie far apart (benchmarks/notes.md has the odds).
"""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from shared.errors import ModelLoadError
from tests.engine.conftest import CONTEXT, FAMILIES, greedy, run, small_config, submit
from tests.engine.test_preemption import BYTES
from worker.engine import memory, scheduler
from worker.engine.deterministic import TILE
from worker.engine.model_runner import ModelRunner
from worker.engine.protocol import EngineRequest, SamplingParams
from worker.engine.transformers_engine import load_model

VOCABULARY = 400
BATCHES = 50  # of each family: 200
EXACT_BATCHES = 15  # of each kind in the deterministic mode: 90
KINDS = [*((family, True) for family in FAMILIES), ("gpt2", False), ("qwen2", False)]
"""Families, with our own attention where a compiler is there, and with torch's."""

Seen = dict[tuple[tuple[int, ...], int | None, int], list[torch.Tensor]]


def random_request(chance: random.Random) -> tuple[tuple[int, ...], SamplingParams]:
    """Greedy or seeded, with what changes the choice of tokens mixed in; at most 64 + 12 tokens."""
    prompt = tuple(chance.randrange(VOCABULARY) for _ in range(chance.choice((1, 2, TILE - 1, TILE, 17, 40, 64))))
    if chance.random() < 0.5:
        return prompt, greedy(chance.randint(1, 12))
    sampling = SamplingParams(
        max_tokens=chance.randint(1, 12),
        temperature=chance.choice((0.3, 1.0, 1.7)),
        top_k=chance.choice((0, 0, 5)),
        top_p=chance.choice((1.0, 0.9)),
        repetition_penalty=chance.choice((1.0, 1.3)),
        seed=chance.randrange(10**6),
        n=chance.choice((1, 1, 2)),
        ignore_eos=True,
    )
    return prompt, sampling


@pytest.fixture
def recorded(new_engine: Callable[..., Any]) -> Callable[..., tuple[Any, Seen]]:
    """Start an engine that keeps the logits from which every token was chosen, by prompt, seed and completion."""

    def make(family: str, **changes: Any) -> tuple[Any, Seen]:
        engine = new_engine(family, **changes)
        runner = engine._loop.model.runner
        seen: Seen = {}
        choose = runner._choose

        def keeping(logits: torch.Tensor, rows: Any) -> Any:
            for row, numbers in zip(rows, logits, strict=True):
                seen.setdefault((row.prompt, row.group.sampling.seed, row.index), []).append(numbers.clone())
            return choose(logits, rows)

        runner._choose = keeping
        return engine, seen

    return make


def run_batches(engine: Any, chance: random.Random, count: int, forget: Callable[[], dict[Any, Any]]) -> Iterator[Any]:
    """Random batches under random chunk budgets; for each request what it gave beside the others, and then alone.

    ``forget`` returns what was recorded since it was called last.
    """
    for _ in range(count):
        requests = [random_request(chance) for _ in range(chance.randint(2, 7))]
        engine._loop._scheduler.token_budget = chance.choice((3, 16, 50, 200))
        handles = [submit(engine, prompt, params) for prompt, params in requests]
        together = [handle.result(60) for handle in handles]
        beside = forget()
        engine._loop._scheduler.token_budget = 200
        at = chance.randrange(len(requests))
        alone = run(engine, *requests[at])
        yield requests[at], together[at], beside, alone, forget()


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_do_not_depend_on_the_batch(new_engine: Callable[..., Any], family: str) -> None:
    engine = new_engine(family)
    for request, together, _, alone, _ in run_batches(engine, random.Random(family), BATCHES, dict):
        assert together == alone, request


@pytest.mark.parametrize(("family", "kernels"), KINDS)
def test_a_deterministic_engine_gives_the_same_logits_to_the_last_bit(
    recorded: Any, family: str, kernels: bool
) -> None:
    engine, seen = recorded(family, deterministic=True, native_kernels=kernels)

    def forget() -> Seen:
        now = dict(seen)
        seen.clear()
        return now

    compared = 0
    for request, together, beside, alone, by_itself in run_batches(
        engine, random.Random(family), EXACT_BATCHES, forget
    ):
        assert together == alone, request
        for key, numbers in by_itself.items():
            other = beside[key][: len(numbers)]  # the same request may be there twice
            assert all(torch.equal(a, b) for a, b in zip(numbers, other, strict=True)), request
            compared += len(numbers)
    assert compared > EXACT_BATCHES


@pytest.mark.parametrize(("family", "kernels"), KINDS)
def test_begun_again_after_some_tokens_it_goes_on_to_the_last_bit(recorded: Any, family: str, kernels: bool) -> None:
    """What was decoded before is computed in chunks now, and the prefix may be there already."""
    engine, seen = recorded(family, deterministic=True, native_kernels=kernels)
    prompt = tuple(random.Random(3).randrange(VOCABULARY) for _ in range(21))
    whole = run(engine, prompt, greedy(40)).completions[0].token_ids
    first = seen[prompt, None, 0]
    for done in (1, 10, 11, 27, 39):
        again = prompt + whole[:done]
        assert run(engine, again, greedy(40 - done)).completions[0].token_ids == whole[done:]
        assert all(torch.equal(a, b) for a, b in zip(seen[again, None, 0], first[done:], strict=True)), done


@pytest.mark.parametrize(("family", "kernels"), KINDS)
def test_after_a_preemption_the_logits_are_the_same_to_the_last_bit(
    recorded: Any, family: str, kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "_ROOM", 0)
    monkeypatch.setattr(memory, "_page_tokens", lambda shapes, device: 8)
    roomy, expected = recorded(family, deterministic=True, native_kernels=kernels)
    tight, seen = recorded(family, deterministic=True, native_kernels=kernels, kv_cache_bytes=160 * BYTES[family])
    chance = random.Random(9)
    prompts = [tuple(chance.randrange(VOCABULARY) for _ in range(chance.randint(3, 40))) for _ in range(4)]
    params = [greedy(80), SamplingParams(max_tokens=90, seed=1), greedy(70), SamplingParams(max_tokens=60, seed=2)]
    alone = [run(roomy, *job) for job in zip(prompts, params, strict=True)]
    handles = [submit(tight, *job) for job in zip(prompts, params, strict=True)]
    assert [handle.result(60) for handle in handles] == alone
    assert tight.stats().preemptions > 1
    assert seen.keys() == expected.keys()
    for key, numbers in expected.items():
        assert all(torch.equal(a, b) for a, b in zip(numbers, seen[key], strict=True)), key


@pytest.mark.parametrize(("family", "kernels"), KINDS)
def test_with_a_prefix_that_was_computed_before_the_logits_are_the_same_to_the_last_bit(
    recorded: Any, family: str, kernels: bool
) -> None:
    """What another row computed, of its prompt in chunks and of its answer by decoding."""
    engine, seen = recorded(family, deterministic=True, native_kernels=kernels)
    prompt = tuple(random.Random(4).randrange(VOCABULARY) for _ in range(35))
    first = engine.submit(EngineRequest(prompt, greedy(45), reuse_scope="a")).result(30)
    longer = (*prompt, *first.completions[0].token_ids, 5, 6, 7)
    reused = engine.submit(EngineRequest(longer, greedy(10), reuse_scope="a")).result(30)
    assert reused.usage.cached_tokens == 64, "four whole blocks: two of the prompt, one mixed, one of the answer"
    key = (longer, None, 0)
    numbers = seen.pop(key)
    assert run(engine, longer, greedy(10)).completions == reused.completions
    assert all(torch.equal(a, b) for a, b in zip(numbers, seen[key], strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_modes_agree_with_each_other(shared_engine: Any, new_engine: Any, family: str) -> None:
    plain, fixed = shared_engine(family), new_engine(family, deterministic=True)
    chance = random.Random(5)
    for _ in range(5):
        prompt = tuple(chance.randrange(VOCABULARY) for _ in range(chance.randint(1, 60)))
        assert run(plain, prompt, greedy(20)) == run(fixed, prompt, greedy(20))


def test_a_sliding_window_and_a_context_that_is_no_whole_number_of_blocks(
    recorded: Any, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(folders["qwen2"], tmp_path / "window")
    config = json.loads((folder / "config.json").read_text())
    changes = {"use_sliding_window": True, "sliding_window": 24, "layer_types": ["full_attention", "sliding_attention"]}
    (folder / "config.json").write_text(json.dumps(config | changes))
    monkeypatch.setitem(folders, "window", folder)
    engine, seen = recorded("window", deterministic=True, max_context=75, slots=2)
    prompt = tuple(range(30))
    whole = run(engine, prompt, greedy(45)).completions[0].token_ids
    neighbour = submit(engine, tuple(range(50, 80)), greedy(40))
    again = prompt + whole[:30]
    assert run(engine, again, greedy(15)).completions[0].token_ids == whole[30:]
    first = seen[prompt, None, 0]
    assert all(torch.equal(a, b) for a, b in zip(seen[again, None, 0], first[30:], strict=True))
    neighbour.result(60)


def test_an_engine_that_cannot_keep_the_promise_does_not_start(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device whose numbers depend on the place in the tile, by the last bit."""
    forward = ModelRunner.forward

    def moody(self: Any, tokens: Any, positions: Any, batch: Any, wanted: Any) -> torch.Tensor:
        logits = forward(self, tokens, positions, batch, wanted)
        return torch.nextafter(logits, logits + 1) if wanted[0] % 2 else logits

    monkeypatch.setattr(ModelRunner, "forward", moody)
    with pytest.raises(ModelLoadError, match="DETERMINISTIC"):
        load_model(small_config(folders["gpt2"], deterministic=True))


def test_one_slot_and_the_whole_context(new_engine: Callable[..., Any], shared_engine: Any) -> None:
    engine = new_engine("gpt2", deterministic=True, slots=1)
    prompt = tuple(at % VOCABULARY for at in range(CONTEXT - 5))
    assert run(engine, prompt, greedy(5)) == run(shared_engine("gpt2"), prompt, greedy(5))


def test_the_fingerprint_tells_what_an_answer_depends_on(
    new_engine: Callable[..., Any], shared_engine: Any, folders: dict[str, Path]
) -> None:
    plain = shared_engine("gpt2").info.system_fingerprint
    assert plain == new_engine("gpt2").info.system_fingerprint
    assert re.fullmatch("fp_[0-9a-f]{10}", plain)
    fixed = [new_engine("gpt2", deterministic=True, slots=slots).info.system_fingerprint for slots in (2, 3)]
    assert fixed[0] == fixed[1], "in the deterministic mode the batch does not matter"
    others = [shared_engine("qwen2"), new_engine("gpt2", slots=3), new_engine("gpt2", pack_weights="on")]
    found = {plain, fixed[0], *(engine.info.system_fingerprint for engine in others)}
    assert len(found) == 5
