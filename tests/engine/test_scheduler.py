"""Admission, chunks, and slots that stay packed, without a model."""

from __future__ import annotations

import random

from tests.engine.conftest import greedy
from worker.engine.generation import PendingGeneration
from worker.engine.protocol import EngineRequest
from worker.engine.scheduler import Scheduler, StepPlan
from worker.engine.sequence import Row, RowGroup
from worker.engine.stopping import StopStrings


def group(prompt_tokens: int, n: int = 1) -> RowGroup:
    return RowGroup(EngineRequest((1,) * prompt_tokens, greedy(9, n=n)), PendingGeneration(), None, lambda ids: "")


class FakeCache:
    """Remembers whose tokens lie in each slot, and fails the test when a plan reads what is not there."""

    def __init__(self, slots: int) -> None:
        self.slots: list[list[Row]] = [[] for _ in range(slots)]

    def run(self, plan: StepPlan) -> None:
        for move in plan.moves:
            self.slots[move.target] = self.slots[move.source][: move.length]
        for slot, row in enumerate(plan.decoding):
            assert row.slot == slot
            assert self.slots[slot][: row.computed] == [row] * row.computed
            self.slots[slot] = [row] * (row.computed + 1)
        for chunk in plan.chunks:
            assert chunk.row.slot >= len(plan.decoding)
            assert self.slots[chunk.row.slot][: chunk.start] == [chunk.row] * chunk.start
            self.slots[chunk.row.slot] = [chunk.row] * chunk.end
            if chunk.completes:
                for row in chunk.row.group.rows:
                    self.slots[row.slot] = [row] * chunk.end


def test_slots_stay_packed_whoever_comes_and_goes() -> None:
    dice = random.Random(4)
    for _ in range(60):
        slots, budget = dice.randint(1, 6), dice.randint(1, 20)
        scheduler, cache = Scheduler(slots, budget), FakeCache(slots)
        alive: list[RowGroup] = []
        for _ in range(80):
            if dice.random() < 0.4:
                alive.append(group(dice.randint(1, 40), dice.randint(1, slots)))
                scheduler.add(alive[-1])
            if alive and dice.random() < 0.3:
                scheduler.drop(alive.pop(dice.randrange(len(alive))))
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
                    scheduler.retire(row)


def test_first_come_first_served() -> None:
    scheduler = Scheduler(slots=2, token_budget=100)
    groups = [group(5) for _ in range(4)]
    for each in groups:
        scheduler.add(each)
    plan = scheduler.plan()
    assert [chunk.row.group for chunk in plan.chunks] == groups[:2]
    scheduler.advance(plan)
    scheduler.drop(groups[0])
    assert [chunk.row.group for chunk in scheduler.plan().chunks] == [groups[2]]


def test_a_long_prompt_never_holds_a_running_row_for_more_than_one_budget() -> None:
    scheduler = Scheduler(slots=4, token_budget=16)
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
    scheduler = Scheduler(slots=3, token_budget=100)
    running, wide, narrow = group(2), group(2, n=3), group(2)
    for each in (running, wide, narrow):
        scheduler.add(each)
    plan = scheduler.plan()
    assert [chunk.row.group for chunk in plan.chunks] == [running]
    scheduler.advance(plan)
    assert not scheduler.plan().chunks
    scheduler.drop(running)
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
