"""Who runs in the next step, and in which slot.

The batch is a list whose index is the slot: first the rows that decode, then at most one row in the middle of its
prompt, then places kept for its siblings. So the decoding rows are always slots 0..r-1 and a step reads views of the
cache. A row that leaves is replaced by the last decoding row; those moves are handed to the runner with the next plan.
Admission is first come, first served; a prompt longer than the budget is computed in chunks over several steps, so that
decoding rows never wait for more than one chunk.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from worker.engine.sequence import Row, RowGroup


@dataclass(frozen=True, slots=True)
class Copy:
    """Copy the first ``length`` tokens of the keys and values of slot ``source`` to slot ``target``."""

    source: int
    target: int
    length: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Prompt tokens ``start``..``end``-1 of a row."""

    row: Row
    start: int
    end: int

    @property
    def completes(self) -> bool:
        return self.end == len(self.row.prompt)


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step: do ``moves``, run one forward over the last token of each ``decoding`` row (slots 0..r-1, in order) and
    over ``chunks``, then sample a token for each decoding row and for each row of every completed prompt."""

    decoding: tuple[Row, ...]
    chunks: tuple[Chunk, ...]
    moves: tuple[Copy, ...] = ()

    @property
    def completed(self) -> tuple[Chunk, ...]:
        return tuple(chunk for chunk in self.chunks if chunk.completes)

    @property
    def sampled(self) -> list[Row]:
        """The rows that get a token, in the order in which the runner returns them."""
        return [*self.decoding, *(row for chunk in self.completed for row in chunk.row.group.rows)]

    @property
    def rows(self) -> list[Row]:
        """Every row that the forward touches."""
        return [*self.decoding, *(chunk.row for chunk in self.chunks)]


@dataclass(slots=True)
class Scheduler:
    """``slots``: rows at once. ``token_budget``: prompt tokens in one step."""

    slots: int
    token_budget: int
    waiting: deque[RowGroup] = field(default_factory=deque)
    batch: list[Row] = field(default_factory=list)
    decoding: int = 0
    _moves: list[Copy] = field(default_factory=list)

    @property
    def idle(self) -> bool:
        return not self.batch and not self.waiting

    def add(self, group: RowGroup) -> None:
        self.waiting.append(group)

    def plan(self) -> StepPlan:
        """The next step. Admits from the waiting line while slots and budget last. Not to be called when idle."""
        decoding = tuple(self.batch[: self.decoding])
        chunks = self._continue_chunks()
        budget = self.token_budget - sum(chunk.end - chunk.start for chunk in chunks)
        while budget > 0 and self.waiting and len(self.batch) + len(self.waiting[0].rows) <= self.slots:
            chunk = self._admit(self.waiting.popleft(), budget)
            chunks.append(chunk)
            budget -= chunk.end - chunk.start
        moves, self._moves = tuple(self._moves), []
        return StepPlan(decoding, tuple(chunks), moves)

    def advance(self, plan: StepPlan) -> None:
        """Book a step that succeeded: what is in the cache, and who decodes from now on."""
        for row in plan.decoding:
            row.computed += 1
        for chunk in plan.chunks:
            chunk.row.computed = chunk.end
            if chunk.completes:
                for row in chunk.row.group.rows:
                    row.computed = chunk.end
                self.decoding += len(chunk.row.group.rows)

    def retire(self, row: Row) -> None:
        """Take a row out of the batch, and close the gap. A row that does not run is no error."""
        if row.slot < 0:
            return
        if row.slot < self.decoding:
            self._close_gap(row.slot)
        else:
            # Only the last group can be in the middle of its prompt; none of it has anything worth moving.
            self.batch.remove(row)
            self._renumber(self.decoding)
        row.slot = -1

    def drop(self, group: RowGroup) -> None:
        """Forget a group, waiting or running."""
        if group in self.waiting:
            self.waiting.remove(group)
        for row in group.rows:
            self.retire(row)

    def _continue_chunks(self) -> list[Chunk]:
        if self.decoding == len(self.batch):
            return []
        row = self.batch[self.decoding]
        return [Chunk(row, row.computed, min(len(row.prompt), row.computed + self.token_budget))]

    def _admit(self, group: RowGroup, budget: int) -> Chunk:
        for row in group.rows:
            row.slot = len(self.batch)
            self.batch.append(row)
        leader = group.rows[0]
        return Chunk(leader, 0, min(len(leader.prompt), budget))

    def _close_gap(self, slot: int) -> None:
        last = self.decoding - 1
        if slot != last:
            self._move(self.batch[last], slot)
        del self.batch[last]
        self.decoding -= 1
        self._renumber(last)

    def _renumber(self, first: int) -> None:
        for slot in range(first, len(self.batch)):
            if self.batch[slot].slot != slot:
                self._move(self.batch[slot], slot)

    def _move(self, row: Row, slot: int) -> None:
        if row.computed:
            self._moves.append(Copy(row.slot, slot, row.computed))
        self.batch[slot] = row
        row.slot = slot
