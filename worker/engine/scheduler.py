"""Who runs in the next step, and in which slot.

The batch is a list whose index is the slot: first the rows that decode, then those whose prompt is not computed yet, and
places kept for their siblings. So the decoding rows are always slots 0..r-1 and a step reads views of the cache. The gaps of
rows that left are closed when the next step is planned, by the last decoding rows; until then every row lies where it was.

Admission is first come, first served, when the memory that a prompt needs is free; a prompt longer than the budget is
computed in chunks over several steps, so that decoding rows never wait for more than one chunk. Rows take memory as they
grow. Where it runs out, the group that was admitted last goes back to the front of the line, and is computed again later:
what it said stays said. So the group admitted first always advances.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from worker.engine.ledger import Ledger
from worker.engine.sequence import Row, RowGroup

LEAST_TOKENS = 16  # of a prompt in a step, where memory is short; fewer would not take noticeably less
_CALM = 64  # steps without trouble, after which more is tried again
_ROOM = 32  # tokens kept free for each row at an admission, or it would soon drive out the last one


@dataclass(frozen=True, slots=True)
class Copy:
    """Copy the first ``length`` tokens of the keys and values of slot ``source`` to slot ``target``."""

    source: int
    target: int
    length: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Known tokens ``start``..``end``-1 of a row. ``completes``: they are the last ones, so that the row gets a token after
    them. ``siblings``: rows of the same prompt that begin from the same keys, values and logits."""

    row: Row
    start: int
    end: int
    completes: bool
    siblings: tuple[Row, ...] = ()

    @property
    def rows(self) -> tuple[Row, ...]:
        return (self.row, *self.siblings)

    @property
    def tokens(self) -> tuple[int, ...]:
        return self.row.tokens(self.start, self.end)


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step: do ``moves``, fill in what the rows of ``reused`` need not compute (``Keeper.reuse``), run one forward over
    the last token of each ``decoding`` row (slots 0..r-1, in order) and over ``chunks``, then sample a token for each
    decoding row and for each row of every completed prompt."""

    decoding: tuple[Row, ...]
    chunks: tuple[Chunk, ...]
    moves: tuple[Copy, ...] = ()
    reused: tuple[Row, ...] = ()

    @property
    def completed(self) -> tuple[Chunk, ...]:
        return tuple(chunk for chunk in self.chunks if chunk.completes)

    @property
    def sampled(self) -> list[Row]:
        """The rows that get a token, in the order in which the runner returns them."""
        return [*self.decoding, *(row for chunk in self.completed for row in chunk.rows)]

    @property
    def rows(self) -> list[Row]:
        """Every row that the forward touches."""
        return [*self.decoding, *(chunk.row for chunk in self.chunks)]


class Keeper(Protocol):
    """Who has the keys and values."""

    def reuse(self, row: Row) -> int:
        """How many leading tokens of a row that is about to begin need not be computed, fewer than it has. The next step
        fills them in: it has the row in ``plan.reused``."""
        ...

    def vacate(self, row: Row, *, sound: bool) -> None:
        """The row leaves its slot, ``row.slot``, where ``row.computed`` tokens lie. ``sound``: they may be reused."""
        ...


@dataclass(slots=True)
class Scheduler:
    """``slots``: rows at once. ``token_budget``: prompt tokens in one step."""

    slots: int
    token_budget: int
    ledger: Ledger
    keeper: Keeper
    waiting: deque[RowGroup] = field(default_factory=deque)
    batch: list[Row] = field(default_factory=list)
    decoding: int = 0
    preemptions: int = 0
    _admitted: dict[RowGroup, None] = field(default_factory=dict)  # who has rows in the batch, the oldest first
    _gone: int = 0  # rows of the batch that left it, until the gaps are closed
    _eased: int = 0  # how often rows and tokens of a step are halved now
    _calm: int = 0  # steps since that changed

    @property
    def running(self) -> int:
        """Rows in the batch."""
        return len(self.batch) - self._gone

    @property
    def idle(self) -> bool:
        return not self.running and not self.waiting

    @property
    def groups(self) -> list[RowGroup]:
        """Those that run, then those that wait."""
        return [*self._admitted, *self.waiting]

    def add(self, group: RowGroup) -> None:
        """To the end of the line. It must fit alone (``Ledger.check``), or those behind it would wait for ever."""
        self.waiting.append(group)

    def plan(self) -> StepPlan:
        """The next step. Preempts where rows cannot grow, admits while slots, memory and budget last. Not to be called when
        idle."""
        self._grow()
        moves = self._close_gaps()
        chunks: list[Chunk] = []
        reused: list[Row] = []
        budget, at = max(min(LEAST_TOKENS, self.token_budget), self.token_budget >> self._eased), self.decoding
        while budget > 0 and (at < len(self.batch) or self._admit()):
            chunks.append(self._next_chunk(self.batch[at], budget, reused))
            budget -= chunks[-1].end - chunks[-1].start
            at += len(chunks[-1].rows)
        return StepPlan(tuple(self.batch[: self.decoding]), tuple(chunks), tuple(moves), tuple(reused))

    def advance(self, plan: StepPlan) -> None:
        """Book a step that succeeded: what is in the cache, and who decodes from now on."""
        for row in plan.decoding:
            row.computed += 1
        for chunk in plan.chunks:
            chunk.row.computed = chunk.end
            if chunk.completes:
                for row in chunk.siblings:
                    row.computed = chunk.end
                self.decoding += len(chunk.rows)
        if self.decoding == len(self.batch):
            for group in self._admitted:
                group.suspect = False
        self._calm += 1
        if self._calm >= _CALM:
            self._eased, self._calm = max(0, self._eased - 1), 0

    def retire(self, row: Row, *, sound: bool) -> None:
        """Take a row out of the batch; a row that does not run is no error. ``sound``: see ``Keeper.vacate``."""
        if row.slot < 0:
            return
        self.keeper.vacate(row, sound=sound)
        self.ledger.give_back(row)
        row.slot, row.computed = -1, 0
        self._gone += 1
        if all(sibling.slot < 0 for sibling in row.group.rows):
            self._admitted.pop(row.group)

    def drop(self, group: RowGroup, *, sound: bool) -> None:
        """Forget a group, waiting or running."""
        if group in self.waiting:
            self.waiting.remove(group)
        for row in group.rows:
            self.retire(row, sound=sound)

    def begin_again(self) -> list[RowGroup]:
        """After a step that failed: everybody goes back to the front of the line, in order. Returns them, the oldest first."""
        groups = list(self._admitted)
        for group in reversed(groups):
            self._put_back(group, sound=False)
        return groups

    def ease(self) -> None:
        """Halve the rows and prompt tokens of a step, for a while; but one request with ``LEAST_TOKENS`` always runs."""
        self._eased, self._calm = self._eased + 1, 0

    def _grow(self) -> None:
        """Memory for the token that each decoding row is about to add."""
        page = self.ledger.page
        full = [row for row in self.batch[: self.decoding] if row.computed >= row.pages * page and row.slot >= 0]
        if len(full) <= self.ledger.free:
            for row in full:
                self.ledger.take(row, row.computed + 1)
            return
        growing = set(full)
        for group in list(self._admitted):
            for row in group.rows:
                # A group that had to leave itself holds nothing any more, and asks for nothing.
                while row in growing and row.slot >= 0 and not self.ledger.take(row, row.computed + 1):
                    self._preempt(next(reversed(self._admitted)))

    def _preempt(self, group: RowGroup) -> None:
        self._put_back(group, sound=True)
        self.preemptions += 1

    def _put_back(self, group: RowGroup, *, sound: bool) -> None:
        for row in group.rows:
            self.retire(row, sound=sound)
        group.preempted_at = time.perf_counter()
        self.waiting.appendleft(group)

    def _close_gaps(self) -> list[Copy]:
        """No slot between two rows stays empty. Returns the copies that this takes, in an order in which none overwrites
        what another still reads."""
        if not self._gone:
            return []
        before, moves = self.batch, list[Copy]()
        staying = sum(row.slot >= 0 for row in before[: self.decoding])
        self.batch = before[:staying]
        last = [row for row in before[staying : self.decoding] if row.slot >= 0]
        for slot, row in enumerate(self.batch):
            if row.slot < 0:
                self.batch[slot] = last.pop()
        self.batch += [row for row in before[self.decoding :] if row.slot >= 0]
        for slot, row in enumerate(self.batch):
            if row.slot != slot:
                if row.computed:
                    moves.append(Copy(row.slot, slot, row.computed))
                row.slot = slot
        self.decoding, self._gone = staying, 0
        return moves

    def _fits(self, group: RowGroup) -> bool:
        rows = group.open_rows
        if self.running + len(rows) > (self.slots >> self._eased if self.running else self.slots):
            return False
        if any(other.suspect for other in self._admitted):
            return False
        needed = sum(self.ledger.pages(row.length) for row in rows)
        room = self.ledger.pages(_ROOM * (self.running + len(rows))) if self.running else 0
        return needed + room <= self.ledger.free

    def _admit(self) -> bool:
        """Give the next group its slots, and the memory for all that is known of it, where both are there."""
        if not self.waiting or not self._fits(self.waiting[0]):
            return False
        group = self.waiting.popleft()
        self._admitted[group] = None
        for row in group.open_rows:
            row.slot = len(self.batch)
            self.batch.append(row)
            self.ledger.take(row, row.length)
        group.begun = True
        return True

    def _next_chunk(self, row: Row, budget: int, reused: list[Row]) -> Chunk:
        """Rows of a group that had begun to answer go on one by one: they are not the same any more."""
        if row.computed == 0:
            row.computed = self.keeper.reuse(row)
            if row.computed:
                reused.append(row)
            if row.group.cached_tokens is None:
                row.group.cached_tokens = row.computed
        end = min(row.length, row.computed + budget)
        siblings = () if row.output else tuple(row.group.open_rows[1:])
        return Chunk(row, row.computed, end, end == row.length, siblings)
