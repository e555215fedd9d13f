"""When memory runs out, rows wait for it: nobody fails, nobody is overtaken, and nobody can tell from the answer."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import EngineStoppedError
from tests.engine.conftest import FAMILIES, Listener, greedy, run, submit
from tests.servers import until
from worker.engine import memory, scheduler
from worker.engine.generation import PendingGeneration
from worker.engine.ledger import Ledger
from worker.engine.protocol import Engine, EngineRequest, FinishReason, Grammar, SamplingParams, Structure
from worker.engine.scheduler import Scheduler, StepPlan
from worker.engine.sequence import Row, RowGroup

TIGHT = 208  # tokens; four rows of 150 take 600
BYTES = {"gpt2": 1024, "llama": 512, "qwen2": 512, "qwen3": 1024}
"""Keys and values of one token."""


def next_token(row: Row, seen: list[int]) -> int:
    """What the model of these tests says after ``seen``: it depends on every token that lies in the cache."""
    return zlib.crc32(bytes([row.index, *seen])) % 251


class FakeRunner:
    """Keeps the tokens themselves where a cache has keys and values. ``reused``: leading tokens it always knows already."""

    def __init__(self, slots: int, reused: int) -> None:
        self.slots: list[list[int]] = [[] for _ in range(slots)]
        self.reused = reused

    def reuse(self, row: Row) -> int:
        return min(self.reused, row.length - 1)

    def vacate(self, row: Row, *, sound: bool) -> None:
        assert sound
        assert self.slots[row.slot][: row.computed] == [*row.tokens(0, row.computed)]

    def step(self, plan: StepPlan) -> list[int]:
        for move in plan.moves:
            self.slots[move.target] = self.slots[move.source][: move.length]
        for row in plan.reused:
            self.slots[row.slot] = [*row.tokens(0, row.computed)]
        for row in plan.decoding:
            self.slots[row.slot] = [*self.slots[row.slot][: row.computed], row.last_token]
        for chunk in plan.chunks:
            told = [*self.slots[chunk.row.slot][: chunk.start], *chunk.tokens]
            for row in chunk.rows:
                self.slots[row.slot] = told
        return [next_token(row, self.slots[row.slot]) for row in plan.sampled]


def take(line: Scheduler, row: Row, token: int) -> None:
    row.output.append(token)
    if len(row.output) == row.group.sampling.max_tokens:
        row.finish_reason = FinishReason.LENGTH
        line.retire(row, sound=True)


def alone(row: Row) -> list[int]:
    """The row's answer with nobody beside it."""
    seen, said = list(row.prompt), list[int]()
    for _ in range(row.group.sampling.max_tokens):
        said.append(next_token(row, seen))
        seen.append(said[-1])
    return said


ARRIVAL = st.tuples(
    st.integers(0, 6),  # steps after the one before
    st.integers(1, 60),  # prompt tokens
    st.integers(1, 40),  # answer tokens
    st.integers(1, 3),  # answers
)


@settings(deadline=None, max_examples=150)
@given(
    arrivals=st.lists(ARRIVAL, min_size=1, max_size=14),
    slots=st.integers(3, 6),
    token_budget=st.integers(1, 40),
    page=st.sampled_from([1, 4, 16, 64]),
    tokens=st.integers(64, 600),
    reused=st.sampled_from([0, 0, 13]),
)
def test_never_over_the_memory_everyone_ends_and_nobody_is_overtaken(
    arrivals: list[tuple[int, int, int, int]], slots: int, token_budget: int, page: int, tokens: int, reused: int
) -> None:
    ledger, runner = Ledger(tokens, page), FakeRunner(slots, reused)
    line = Scheduler(slots, token_budget, ledger, runner)
    groups, due, began = list[RowGroup](), list[int](), list[RowGroup]()
    for after, prompt, answer, n in arrivals:
        request = EngineRequest(tuple((7 * at + prompt) % 250 for at in range(prompt)), greedy(answer, n=n))
        if n * ledger.pages(prompt + answer - 1) <= ledger.total:
            groups.append(RowGroup(request, PendingGeneration(), None, lambda ids: ""))
            due.append(after + (due[-1] if due else 0))
    step = 0
    while step <= max(due, default=0) or not line.idle:
        for group in [group for group, at in zip(groups, due, strict=True) if at == step]:
            line.add(group)
        step += 1
        if line.idle:
            continue
        oldest = next((group for group in groups if group.begun and not group.finished), None)
        plan = line.plan()
        rows = line.batch
        assert sum(row.pages for row in rows) == ledger.total - ledger.free
        assert ledger.free >= 0
        assert all(row.computed + 1 <= row.pages * page for row in plan.decoding)
        assert all(chunk.end <= chunk.row.pages * page for chunk in plan.chunks)
        assert oldest is None or oldest in [row.group for row in plan.rows], "who came first goes on with every step"
        order = [groups.index(group) for group in line.groups]
        assert order == sorted(order), "who came later never stands before"
        began += [group for group in groups if group.begun and group not in began]
        said = runner.step(plan)
        line.advance(plan)
        for row, token in zip(plan.sampled, said, strict=True):
            take(line, row, token)
        assert step < 30_000
    assert began == groups
    assert ledger.free == ledger.total
    assert all(row.output == alone(row) for group in groups for row in group.rows)


def jobs(count: int, seed: int) -> list[tuple[tuple[int, ...], SamplingParams]]:
    """Greedy ones, seeded ones, with penalties, with a structure, of several completions; each could be alone in memory."""
    dice = random.Random(seed)
    made = []
    for at in range(count):
        n = (1, 3, 1)[at % 3]
        prompt = tuple(dice.randrange(3, 300) for _ in range(dice.randint(1, 60 // n)))
        answer = dice.randint(80, 130) if n == 1 else 45
        params = [
            greedy(answer, n=n, presence_penalty=0.5),
            SamplingParams(max_tokens=answer, seed=at, top_p=0.9, n=n, ignore_eos=True),
            greedy(answer, repetition_penalty=1.3, n=n, stop=("zzz",)),
            greedy(answer, n=n, structure=Structure(Grammar.REGEX, "([a-f][0-9]){200}")),
        ][at % 4]
        made.append((prompt, params))
    return made


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_the_same_with_and_without_preemption(
    family: str,
    new_engine: Callable[..., Engine],
    shared_engine: Callable[[str], Engine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scheduler, "_ROOM", 0)  # as careless as can be at admission
    monkeypatch.setattr(memory, "_page_tokens", lambda shapes, device: 8)  # these tiny heads have pages of 64
    roomy, tight = shared_engine(family), new_engine(family, kv_cache_bytes=TIGHT * BYTES[family], prefix_cache_bytes=0)
    asked = jobs(6, seed=5)
    expected = [run(roomy, *job) for job in asked]
    heard = [Listener(hold=at == 0) for at in range(len(asked))]
    handles = [submit(tight, *job, listener) for job, listener in zip(asked, heard, strict=True)]
    heard[0].go.set()
    assert [handle.result(60) for handle in handles] == expected
    assert tight.stats().preemptions > 3
    assert roomy.stats().preemptions == 0
    for listener, result in zip(heard, expected, strict=True):
        for completion in result.completions:
            deltas = [delta for delta in listener.deltas if delta.index == completion.index]
            assert "".join(delta.text for delta in deltas) == completion.text, "told once, and whole"
            assert sum(delta.token_count for delta in deltas) == len(completion.token_ids)
    stats = tight.stats()
    assert stats.generated_tokens == sum(result.usage.completion_tokens for result in expected)
    assert (stats.kv_cache_usage, stats.running, stats.waiting) == (0.0, 0, 0)
    gaps = stats.generated_tokens - sum(params.n for _, params in asked)
    assert sum(stats.token_gaps.counts) == gaps, "each token but the first of a row came after a gap"


def test_log_probabilities_are_told_once(new_engine: Callable[..., Engine]) -> None:
    engine = new_engine("gpt2", kv_cache_bytes=192 * 1024, prefix_cache_bytes=0, max_context=192)
    params = greedy(150, logprobs=1, prompt_logprobs=1)
    whole = run(engine, (5,) * 40, params)
    first = Listener(hold=True)
    handles = [submit(engine, (5,) * 40, params, first if at == 0 else None) for at in range(3)]
    first.go.set()
    results = [handle.result(30) for handle in handles]
    assert engine.stats().preemptions > 0
    for result in results:
        assert result.completions[0].token_ids == whole.completions[0].token_ids
        assert [place.chosen.token for place in result.completions[0].places or ()] == [*whole.completions[0].token_ids]
        assert [place.chosen.token for place in result.prompt_places or ()] == [5] * 39


def test_what_a_row_has_with_it_survives_a_preemption(
    new_engine: Callable[..., Engine], shared_engine: Callable[[str], Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its place in a structure, its counts, its numbers, and what was told of its tokens."""
    monkeypatch.setattr(scheduler, "_ROOM", 0)
    monkeypatch.setattr(memory, "_page_tokens", lambda shapes, device: 8)
    tight = new_engine("gpt2", kv_cache_bytes=TIGHT * BYTES["gpt2"], prefix_cache_bytes=0)
    structure = Structure(Grammar.REGEX, "([a-f]{9}-){8}end")
    params = [
        SamplingParams(max_tokens=90, seed=3, structure=structure, logprobs=1, prompt_logprobs=2),
        SamplingParams(max_tokens=90, seed=4, frequency_penalty=0.8, presence_penalty=0.5, ignore_eos=True, logprobs=2),
        SamplingParams(max_tokens=90, seed=5, top_p=0.8, min_p=0.01, min_tokens=85, structure=structure),
        greedy(90, frequency_penalty=0.7, repetition_penalty=1.2, stop_token_ids=(4, 5), min_tokens=80),
    ]
    asked = [(tuple(range(9 + at, 20)), one) for at, one in enumerate(params)]
    expected = [run(shared_engine("gpt2"), *job) for job in asked]
    heard = Listener(hold=True)
    handles = [submit(tight, *job, heard if at == 0 else None) for at, job in enumerate(asked)]
    heard.go.set()
    for handle, alone in zip(handles, expected, strict=True):
        result = handle.result(60)
        assert [one.token_ids for one in result.completions] == [one.token_ids for one in alone.completions]
        assert [one.text for one in result.completions] == [one.text for one in alone.completions]
        for one, other in zip(result.completions, alone.completions, strict=True):
            assert (one.places is None) == (other.places is None)
            assert len(one.places or ()) == len(other.places or ())
        assert len(result.prompt_places or ()) == len(alone.prompt_places or ())
    assert tight.stats().preemptions > 0


@pytest.fixture(params=["echo", "gpt2"])
def short(request: pytest.FixtureRequest, new_engine: Callable[..., Engine]) -> Engine:
    """Four slots, and memory for 192 tokens: two of the rows below."""
    if request.param == "echo":
        return new_engine("echo", kv_cache_bytes=192, max_context=192, echo_token_delay_s=0.002)
    return new_engine("gpt2", kv_cache_bytes=192 * 1024, prefix_cache_bytes=0, max_context=192)


def test_a_preempted_request_can_be_canceled(short: Engine) -> None:
    whole = run(short, (5,) * 16, greedy(150)).completions[0]
    heard, first = Listener(), Listener(hold=True)
    oldest = submit(short, (5,) * 16, greedy(150), first)
    assert first.heard.wait(20)
    youngest = submit(short, (5,) * 16, greedy(150), heard)
    first.go.set()
    until(lambda: short.stats().preemptions > 0)
    youngest.cancel()
    (completion,) = youngest.result(30).completions
    assert completion.finish_reason is FinishReason.CANCELED
    assert completion.token_ids == whole.token_ids[: len(completion.token_ids)]
    assert heard.text() == completion.text
    assert oldest.result(30).completions[0] == whole


def test_a_drain_lets_preempted_requests_end(short: Engine) -> None:
    heard = [Listener(hold=True), Listener()]
    running = [submit(short, (5,) * 16, greedy(150), listener) for listener in heard]
    assert heard[0].heard.wait(20)
    waiting = [submit(short, (5,) * 16, greedy(150)) for _ in range(6)]
    heard[0].go.set()
    assert heard[1].heard.wait(20)
    short.shutdown(drain_s=30)
    assert [len(handle.result(0).completions[0].token_ids) for handle in running] == [150, 150]
    assert short.stats().preemptions > 0
    with pytest.raises(EngineStoppedError):
        waiting[-1].result(0)
