"""Admission, chunks, and slots that stay packed, without a model."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.engine.conftest import greedy
from worker.engine.generation import PendingGeneration
from worker.engine.ledger import Ledger
from worker.engine.protocol import EngineRequest
from worker.engine.scheduler import Scheduler, StepPlan
from worker.engine.sequence import Row, RowGroup
from worker.engine.stopping import StopStrings


def group(prompt_tokens: int, n: int = 1) -> RowGroup:
    return RowGroup(EngineRequest((1,) * prompt_tokens, greedy(9, n=n)), PendingGeneration(), None, lambda ids: "")


class FakeCache:
    """Remembers whose tokens lie in each slot, and fails the test when a plan reads what is not there. ``known``: rows whose
    first tokens it says it has already, and how many."""

    def __init__(self, slots: int, known: Callable[[Row], int] = lambda row: 0) -> None:
        self.slots: list[list[Row]] = [[] for _ in range(slots)]
        self.known = known
        self.sound: list[Row] = []

    def reuse(self, row: Row) -> int:
        assert row.computed == 0
        return min(self.known(row), row.length - 1)

    def vacate(self, row: Row, *, sound: bool) -> None:
        if any(self.slots):  # else this test runs no steps
            assert self.slots[row.slot][: row.computed] == [row] * row.computed
        if sound:
            self.sound.append(row)

    def run(self, plan: StepPlan) -> None:
        for move in plan.moves:
            self.slots[move.target] = self.slots[move.source][: move.length]
        for row in plan.reused:
            self.slots[row.slot] = [row] * row.computed
        for slot, row in enumerate(plan.decoding):
            assert row.slot == slot
            assert self.slots[slot][: row.computed] == [row] * row.computed
            self.slots[slot] = [row] * (row.computed + 1)
        for chunk in plan.chunks:
            assert chunk.row.slot >= len(plan.decoding)
            assert self.slots[chunk.row.slot][: chunk.start] == [chunk.row] * chunk.start
            self.slots[chunk.row.slot] = [chunk.row] * chunk.end
            assert chunk.end <= chunk.row.length
            if chunk.completes:
                for row in chunk.rows:
                    self.slots[row.slot] = [row] * chunk.end


def scheduler_over(cache: FakeCache, token_budget: int, tokens: int = 10**6, page: int = 16) -> Scheduler:
    return Scheduler(len(cache.slots), token_budget, Ledger(tokens, page), cache)


def test_slots_stay_packed_whoever_comes_and_goes() -> None:
    dice = random.Random(4)
    for _ in range(60):
        slots, budget = dice.randint(1, 6), dice.randint(1, 20)
        cache = FakeCache(slots, lambda row: dice.randint(0, 20))
        scheduler = scheduler_over(cache, budget)
        alive: list[RowGroup] = []
        for _ in range(80):
            if dice.random() < 0.4:
                alive.append(group(dice.randint(1, 40), dice.randint(1, slots)))
                scheduler.add(alive[-1])
            if alive and dice.random() < 0.3:
                scheduler.drop(alive.pop(dice.randrange(len(alive))), sound=True)
            if scheduler.idle:
                continue
            plan = scheduler.plan()
            assert sum(chunk.end - chunk.start for chunk in plan.chunks) <= budget
            assert plan.rows, "a step with nothing in it would spin for ever"
            cache.run(plan)
            scheduler.advance(plan)
            assert [row.slot for row in scheduler.batch] == list(range(len(scheduler.batch)))
            assert len(scheduler.batch) <= slots
            for row in plan.sampled:
                if dice.random() < 0.15:
                    scheduler.retire(row, sound=True)


def test_first_come_first_served() -> None:
    scheduler = scheduler_over(FakeCache(2), 100)
    groups = [group(5) for _ in range(4)]
    for each in groups:
        scheduler.add(each)
    plan = scheduler.plan()
    assert [chunk.row.group for chunk in plan.chunks] == groups[:2]
    scheduler.advance(plan)
    scheduler.drop(groups[0], sound=True)
    assert [chunk.row.group for chunk in scheduler.plan().chunks] == [groups[2]]


def test_a_long_prompt_never_holds_a_running_row_for_more_than_one_budget() -> None:
    scheduler = scheduler_over(FakeCache(4), 16)
    first, long = group(3), group(100)
    scheduler.add(first)
    scheduler.advance(scheduler.plan())
    scheduler.add(long)
    steps = 0
    while not scheduler.batch or long.rows[0].computed < 100:
        plan = scheduler.plan()
        assert plan.decoding == (first.rows[0],)
        assert sum(chunk.end - chunk.start for chunk in plan.chunks) <= 16
        scheduler.advance(plan)
        steps += 1
    assert steps == 7


def test_a_request_of_n_waits_for_n_slots_and_is_not_overtaken() -> None:
    scheduler = scheduler_over(FakeCache(3), 100)
    running, wide, narrow = group(2), group(2, n=3), group(2)
    for each in (running, wide, narrow):
        scheduler.add(each)
    plan = scheduler.plan()
    assert [chunk.row.group for chunk in plan.chunks] == [running]
    scheduler.advance(plan)
    assert not scheduler.plan().chunks
    scheduler.drop(running, sound=True)
    assert [chunk.row.group for chunk in scheduler.plan().chunks] == [wide]


def feed(stops: tuple[str, ...], parts: list[str]) -> tuple[str, list[str], bool]:
    watch = StopStrings(stops)
    shown = [watch.feed(part) for part in parts]
    return "".join(shown) + watch.flush(), shown, watch.matched


def test_stop_strings_do_not_depend_on_how_the_text_was_cut() -> None:
    dice = random.Random(8)
    for _ in range(400):
        text = "".join(dice.choice("ab") for _ in range(12))
        stops = tuple("".join(dice.choice("ab") for _ in range(dice.randint(1, 5))) for _ in range(dice.randint(1, 3)))
        letters, _, matched = feed(stops, list(text))
        cuts = sorted(dice.sample(range(1, 12), 3))
        parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, 12], strict=True)]
        assert feed(stops, parts)[0] == letters
        assert matched == any(stop in text for stop in stops)
        assert not any(stop in letters for stop in stops)
        assert text.startswith(letters)


def test_only_what_may_begin_a_stop_string_is_held_back() -> None:
    assert feed(("<end>",), ["abc<", "e", "nd", "x"])[1] == ["abc", "", "", "<endx"]
    assert feed(("<end>",), ["abc<en", "d>zzz", "more"]) == ("abc", ["abc", "", ""], True)
