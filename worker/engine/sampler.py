"""Choosing tokens, for all rows at once.

Order and meaning of the steps are those of vLLM's sampler: logit bias; repetition, frequency and presence penalty; what is not allowed
(ends before ``min_tokens``; what breaks the structure) is taken out; then the largest, or where the temperature is above 0:
temperature, min-p, top-k, top-p and a draw. The draw is by inversion, one uniform number per row from that row's own
generator: so a seeded row gets the same numbers whatever runs beside it.

What depends on the set of rows alone is made when that set changes. A step waits for the device once, for its tokens; a
second time only where a row's nucleus is wider than ``_CANDIDATES`` for the first time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from worker.engine import drawing
from worker.engine.penalties import Biases, EarlyEnds, Penalties, Structures
from worker.engine.row_sampling import RowSampling

_CANDIDATES = 256  # enough for nearly every nucleus
_COLDEST = 1e-6  # below it float32 would divide by zero, and the answer has long been the greedy one
_NUMBERS = 64  # uniform numbers put on the device at once
_WHOLE, _NARROW, _WIDE = range(3)  # every token may come; the best few are looked at first; everything is, at once

Index = torch.Tensor | slice


class Sampler:
    """Samples whatever rows it is given, and remembers what it made for them while they stay the same."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._scratch = _Scratch(device)
        self._rows: list[RowSampling] = []
        self._batch: _Batch | None = None

    def sample(self, logits: torch.Tensor, rows: Sequence[RowSampling]) -> list[int | None]:
        """One token per row; None where the row's logits are not finite numbers.

        logits: float32 ``[rows, vocab]``; not changed. The rows have taken their tokens when this returns.
        """
        rows = list(rows)
        if self._batch is None or self._rows != rows:
            self._rows, self._batch = rows, _Batch(rows, logits.shape[-1], self._scratch)
        batch, self._batch = self._batch, None  # made anew after a step that raises
        chosen = batch.choose(logits)
        for row in rows:
            row.taken += 1
        self._batch = batch if batch.still_fits else None
        return chosen


class _Scratch:
    """Tensors as large as the logits, kept: on a CPU a new one costs more in page faults than what is computed in it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._tensors: dict[str, torch.Tensor] = {}

    def __call__(self, name: str, rows: int, vocab: int) -> torch.Tensor:
        """float32 ``[rows, vocab]``, of any content."""
        kept = self._tensors.get(name)
        if kept is None or len(kept) < rows * vocab:
            kept = self._tensors[name] = torch.empty(rows * vocab, device=self.device)
        return kept[: rows * vocab].view(rows, vocab)


class _Batch:
    """A set of rows as tensors."""

    def __init__(self, rows: list[RowSampling], vocab: int, scratch: _Scratch) -> None:
        self.still_fits = True
        self._scratch = scratch
        device = scratch.device
        biased = _where(rows, lambda row: bool(row.params.logit_bias))
        penalized = _where(rows, lambda row: row.penalized)
        # A matcher heeds min_tokens itself: where the structure is complete, nothing but an end is left.
        early = _where(rows, lambda r: r.taken < r.params.min_tokens and bool(r.unwanted) and r.matcher is None)
        self._structured = _where(rows, lambda row: row.matcher is not None)
        # Sorted by how they draw, so that those of a kind are a slice.
        drawn = sorted(_where(rows, lambda row: row.params.temperature > 0), key=lambda i: _kind(rows[i], vocab))
        self._biases = Biases(rows, biased, device) if biased else None
        self._penalties = Penalties(rows, penalized, device) if penalized else None
        self._early_ends = EarlyEnds(rows, early, device) if early else None
        self._structures = Structures(rows, self._structured, vocab, device) if self._structured else None
        self._draws = _Draws([rows[i] for i in drawn], vocab, scratch) if drawn else None
        self._drawn = _index(drawn, len(rows), device)
        self._penalized = _index(penalized, len(rows), device)

    def choose(self, logits: torch.Tensor) -> list[int | None]:
        chosen = drawing.largest(logits)
        # The largest is NaN if anything is, infinite if anything overflowed, and -inf if nothing is left.
        finite = logits.gather(1, chosen.unsqueeze(1)).squeeze(1).isfinite()
        scores = self._changed(logits)
        if scores is not logits:
            chosen = drawing.largest(scores)
        if self._draws is None:
            tokens, ok = torch.stack((chosen, finite)).tolist()
        else:
            chosen, (tokens, ok) = self._drawn_over(chosen, scores, finite, self._draws)
        self._take(chosen, tokens)
        return [token if good else None for token, good in zip(tokens, ok, strict=True)]

    def _drawn_over(
        self, chosen: torch.Tensor, scores: torch.Tensor, finite: torch.Tensor, draws: _Draws
    ) -> tuple[torch.Tensor, list[list[int]]]:
        """``chosen`` with the tokens of those that draw in their places; and the same and ``finite``, as lists."""
        short = torch.zeros_like(chosen)
        chosen[self._drawn], short[self._drawn] = draws.draw(scores, self._drawn, chosen[self._drawn])
        tokens, ok, again = torch.stack((chosen, finite, short)).tolist()
        if any(again):
            chosen[self._drawn] = draws.draw_wide(short[self._drawn], chosen[self._drawn])
            tokens = chosen.tolist()
            self.still_fits = False
        return chosen, [tokens, ok]

    def _changed(self, logits: torch.Tensor) -> torch.Tensor:
        steps = [
            step for step in (self._biases, self._penalties, self._early_ends, self._structures) if step is not None
        ]
        if not steps:
            return logits
        scores = self._scratch("scores", *logits.shape).copy_(logits)
        for step in steps:
            step.apply(scores)
        return scores

    def _take(self, chosen: torch.Tensor, tokens: Sequence[int]) -> None:
        if self._penalties is not None:
            self._penalties.take(chosen[self._penalized].unsqueeze(1))
        if self._early_ends is not None:
            self._early_ends.take()
        if self._structures is not None:
            self._structures.take([tokens[at] for at in self._structured])


class _Draws:
    """The rows that draw, sorted by ``_kind``."""

    def __init__(self, rows: list[RowSampling], vocab: int, scratch: _Scratch) -> None:
        self._rows = rows
        self._scratch = scratch
        params, device = [row.params for row in rows], scratch.device
        top_k = [min(p.top_k or vocab, vocab) for p in params]
        self._temperatures = _column([max(p.temperature, _COLDEST) for p in params], device)
        self._min_p = _column([p.min_p for p in params], device) if any(p.min_p > 0 for p in params) else None
        self._top_k = _column(top_k, device)
        self._top_p = _column([p.top_p for p in params], device)
        self._large_top_k = any(_CANDIDATES < k < vocab for k in top_k)
        kinds = [_kind(row, vocab) for row in rows]
        self._slices = [
            slice(kinds.index(kind), kinds.index(kind) + kinds.count(kind)) if kind in kinds else None
            for kind in (_WHOLE, _NARROW, _WIDE)
        ]
        self._width = min(_CANDIDATES, vocab)
        self._probabilities = torch.empty(0)
        self._uniforms = torch.empty(0)
        self._used = _NUMBERS

    def draw(self, scores: torch.Tensor, at: Index, top: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """scores: ``[all rows, vocab]``; at: where these rows are in it; top: the index of the largest of each. Returns a token for
        each row, and 1 where it is not to be used since the row's nucleus is wider than was looked at."""
        p = self._probabilities = self._weights(scores, at, top.unsqueeze(1))
        uniforms = self._next_uniforms()
        tokens, short = torch.empty_like(top), torch.zeros_like(top)
        whole, narrow, wide = self._slices
        if whole is not None:
            tokens[whole] = drawing.invert(p[whole], uniforms[whole])
        if narrow is not None:
            weights, ids, beyond = drawing.nucleus(p[narrow], self._top_k[narrow], self._top_p[narrow], self._width)
            tokens[narrow] = ids.gather(1, drawing.invert(weights, uniforms[narrow]).unsqueeze(1)).squeeze(1)
            short[narrow] = beyond.long()
        if wide is not None:
            tokens[wide] = self._from_wide(wide, uniforms)
        return tokens, short

    def draw_wide(self, short: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """After ``draw``: ``tokens`` with those of the rows that were ``short`` drawn again."""
        at = short.nonzero().squeeze(1)
        for i in at.tolist():
            self._rows[i].wide = True
        tokens = tokens.clone()
        tokens[at] = self._from_wide(at, self._uniforms[:, self._used - 1 : self._used])
        return tokens

    def _from_wide(self, at: Index, uniforms: torch.Tensor) -> torch.Tensor:
        p = self._probabilities[at]
        mask = self._scratch("mask", *p.shape)
        weights = drawing.wide_nucleus(p, self._top_k[at] if self._large_top_k else None, self._top_p[at], mask)
        return drawing.invert(weights, uniforms[at])

    def _weights(self, scores: torch.Tensor, at: Index, top: torch.Tensor) -> torch.Tensor:
        """Probabilities after the temperature, less what min-p leaves out."""
        shape = len(self._rows), scores.shape[-1]
        cooled, p = self._scratch("cooled", *shape), self._scratch("probabilities", *shape)
        # A tiny temperature must not turn a large logit into infinity: only differences to the largest count.
        if isinstance(at, slice):
            torch.sub(scores, scores.gather(1, top), out=cooled)
        else:
            torch.index_select(scores, 0, at, out=cooled)
            cooled.sub_(cooled.gather(1, top))
        torch.softmax(cooled.div_(self._temperatures), dim=-1, out=p)
        if self._min_p is not None:
            p.mul_(torch.ge(p, self._min_p * p.gather(1, top), out=cooled))  # of floats, see drawing.py
        return p

    def _next_uniforms(self) -> torch.Tensor:
        if self._used == _NUMBERS:
            self._uniforms = torch.stack([row.uniforms(_NUMBERS) for row in self._rows])
            self._uniforms = self._uniforms.to(self._scratch.device, non_blocking=True)
            self._used = 0
        self._used += 1
        return self._uniforms[:, self._used - 1 : self._used]


def _kind(row: RowSampling, vocab: int) -> int:
    top_k = min(row.params.top_k or vocab, vocab)
    if top_k == vocab and row.params.top_p == 1.0:
        return _WHOLE
    return _WIDE if row.wide or _CANDIDATES < top_k < vocab else _NARROW


def _where(rows: list[RowSampling], fits: Callable[[RowSampling], bool]) -> list[int]:
    return [i for i, row in enumerate(rows) if fits(row)]


def _index(at: list[int], count: int, device: torch.device) -> Index:
    """A slice, which copies nothing, for everybody in order."""
    return slice(None) if at == list(range(count)) else torch.tensor(at, dtype=torch.long).to(device, non_blocking=True)


def _column(values: Sequence[float], device: torch.device) -> torch.Tensor:
    return torch.tensor(values).unsqueeze(1).to(device, non_blocking=True)
