"""Choosing one token of many, for all rows at once: the largest, the k largest, a draw, the nucleus.

A pass over a vocabulary costs what its slowest reduction costs, so everything here works on blocks: torch's plain ``argmax``
and ``cumsum`` walk a row one by one on a CPU, sums and maxima of blocks are vectorized (benchmarks/notes.md). Each row's
result depends on that row alone. Nothing here waits for the device.
"""

from __future__ import annotations

import torch

_BLOCK = 256
_COLUMN = 16
_BITS_OF_TWO = 0x40000000  # as float32: over every probability
_HALVINGS = 31  # of the floats from 0 to 2: after these the bounds are neighbours


def largest(scores: torch.Tensor) -> torch.Tensor:
    """As ``scores.argmax(-1)``: int64 ``[rows]``, the first of equals, a NaN before all numbers. scores: ``[rows, n]``."""
    if scores.device.type != "cpu" or scores.shape[-1] < 2 * _BLOCK:
        return scores.argmax(dim=-1)
    block = _block_maxima(scores).argmax(dim=-1, keepdim=True)
    inside = _inside(block, scores.shape[-1])
    return inside.gather(1, scores.gather(1, inside).argmax(dim=-1, keepdim=True)).squeeze(1)


def best(scores: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """As ``scores.topk(count)``: values and int64 ids, ``[rows, count]``, the largest first."""
    columns = scores.shape[-1] // _COLUMN
    if scores.device.type != "cpu" or columns < 2 * count:
        return scores.topk(count, dim=-1)
    # The largest of all are in the columns with the largest maxima; what is left over is a candidate in any case.
    whole = columns * _COLUMN
    maxima = scores[:, :whole].view(len(scores), _COLUMN, columns).amax(dim=1)
    column = maxima.topk(count, dim=-1, sorted=False).indices.unsqueeze(1)
    ids = (column + torch.arange(0, whole, columns).view(1, _COLUMN, 1)).flatten(1)
    rest = torch.arange(whole, scores.shape[-1]).expand(len(scores), -1)
    ids = torch.cat((ids, rest), dim=1)
    values, at = scores.gather(1, ids).topk(count, dim=-1)
    return values, ids.gather(1, at)


def invert(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """The index at which the running sum passes ``uniforms`` of the whole: int64 ``[rows]``.

    weights: ``[rows, n]``, not negative, need not add up to 1. uniforms: ``[rows, 1]`` in [0, 1).
    """
    size = weights.shape[-1]
    sums = _block_sums(weights).cumsum(-1)
    target = uniforms * sums[:, -1:]
    block = _first_over(sums, target, torch.diff(sums, prepend=torch.zeros_like(sums[:, :1])))
    before = torch.where(block > 0, sums.gather(1, (block - 1).clamp_min(0)), 0.0)
    inside = _inside(block, size)
    within = weights.gather(1, inside)
    within = within.masked_fill(block * _BLOCK + torch.arange(_BLOCK, device=weights.device) >= size, 0.0)
    at = _first_over(within.cumsum(-1), target - before, within)
    return inside.gather(1, at).squeeze(1)


def nucleus(
    probabilities: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor, width: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Top-k, then top-p (Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020), among the ``width`` best.

    probabilities: ``[rows, n]``, need not add up to 1. top_k: int64 ``[rows, 1]``, n for off; top_p ``[rows, 1]``, 1 for off.
    Returns weights ``[rows, width]``, the largest first and 0 for what is left out; their ids; and bool ``[rows]``, True where
    the nucleus may reach beyond ``width`` and ``wide_nucleus`` has to find it.
    """
    weights, ids = best(probabilities, width)
    weights = weights.masked_fill(torch.arange(width, device=weights.device) >= top_k, 0.0)
    reached = weights.cumsum(-1)
    inside = top_k <= width
    total = torch.where(inside, reached[:, -1:], probabilities.sum(-1, keepdim=True))
    short = ~inside & (reached[:, -1:] < top_p * total)
    # A token stays while those before it have not reached top_p; the first always does.
    outside = (reached - weights >= top_p * total) & (top_p < 1.0)
    return weights.masked_fill(outside, 0.0), ids, short.squeeze(1)


def wide_nucleus(
    probabilities: torch.Tensor, top_k: torch.Tensor | None, top_p: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """As ``nucleus`` over everything: ``[rows, n]`` with 0 for what is left out; equals of the last token stay with it.

    Without sorting: the probability of the last token that stays is found by halving, which takes an eighth of the time of a
    sort. top_k: None where it is off for all rows. mask: as ``probabilities``, to be written; the result is in it.
    """
    if top_k is not None:
        probabilities = probabilities * _largest_with(probabilities, None, top_k, mask)
    target = torch.where(top_p < 1.0, top_p * probabilities.sum(-1, keepdim=True), torch.inf)
    return _largest_with(probabilities, probabilities, target, mask).mul_(probabilities)


def _largest_with(
    values: torch.Tensor, weights: torch.Tensor | None, target: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """``mask``, 1 for the largest ``values``, as many as it takes until their ``weights`` (or their count) reach ``target``."""
    # The bits of floats that are not negative are in the floats' own order.
    low = torch.zeros_like(target, dtype=torch.int32)
    high = torch.full_like(low, _BITS_OF_TWO)
    for _ in range(_HALVINGS):
        middle = low + (high - low) // 2
        torch.ge(values, middle.view(torch.float32), out=mask)  # with bools the same takes ten times as long on a CPU
        reached = (mask if weights is None else mask.mul_(weights)).sum(-1, keepdim=True)
        enough = reached >= target
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    return torch.ge(values, low.view(torch.float32), out=mask)


def _first_over(sums: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The first index whose running sum is over ``target``, int64 ``[rows, 1]``; rounding may push it to the very end, where
    the last index with any weight is meant."""
    last = weights.shape[-1] - 1 - (weights > 0).flip(-1).int().argmax(-1, keepdim=True)
    return torch.minimum(torch.searchsorted(sums, target, right=True), last)


def _block_maxima(scores: torch.Tensor) -> torch.Tensor:
    whole = scores.shape[-1] // _BLOCK * _BLOCK
    maxima = scores[:, :whole].view(len(scores), whole // _BLOCK, _BLOCK).amax(dim=-1)
    return maxima if whole == scores.shape[-1] else torch.cat((maxima, scores[:, whole:].amax(-1, keepdim=True)), dim=1)


def _block_sums(weights: torch.Tensor) -> torch.Tensor:
    """``[rows, ceil(n / block)]``."""
    whole = weights.shape[-1] // _BLOCK * _BLOCK
    sums = weights[:, :whole].view(len(weights), whole // _BLOCK, _BLOCK).sum(dim=-1)
    return sums if whole == weights.shape[-1] else torch.cat((sums, weights[:, whole:].sum(-1, keepdim=True)), dim=1)


def _inside(block: torch.Tensor, size: int) -> torch.Tensor:
    """The indices of a block, int64 ``[rows, block]``; the last index again where the block reaches beyond the end."""
    return (block * _BLOCK + torch.arange(_BLOCK, device=block.device)).clamp_max(size - 1)
