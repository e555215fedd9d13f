"""What changes the logits of single rows: bias, penalties, ends that come too early, what breaks a structure.

Each class holds compact lists of token ids for its rows, made when the set of rows changes. Lists of different lengths are padded
with their own first entry: the same number is then written to the same place twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import embedding
from torch.nn.utils.rnn import pad_sequence

from worker.engine.row_sampling import RowSampling


class Biases:
    """``logit_bias``: added to the logits of its ids."""

    def __init__(self, rows: Sequence[RowSampling], at: Sequence[int], device: torch.device) -> None:
        biases = [rows[i].params.logit_bias for i in at]
        self._rows = _column(at, device)
        self._ids = _padded([[token for token, _ in bias] for bias in biases], torch.long, device)
        self._values = _padded([[value for _, value in bias] for bias in biases], torch.float32, device)

    def apply(self, scores: torch.Tensor) -> None:
        scores[self._rows, self._ids] = scores[self._rows, self._ids] + self._values


class Penalties:
    """Repetition (over prompt and output), frequency and presence (over the output)."""

    def __init__(self, rows: Sequence[RowSampling], at: Sequence[int], device: torch.device) -> None:
        some = [rows[i] for i in at]
        self._rows = _column(at, device)
        self._seen = pad_sequence([row.seen.to(device) for row in some], batch_first=True)
        self._counts = pad_sequence([row.counts.to(device) for row in some], batch_first=True)
        for row, seen, counts in zip(some, self._seen, self._counts, strict=True):
            row.seen, row.counts = seen[: len(row.seen)], counts[: len(row.counts)]
        lengths = [row.seen_length for row in some]
        self._longest = max(lengths)
        self._ends = _column(lengths, device)
        self._repetition = _column([row.params.repetition_penalty for row in some], device)
        self._frequency = _column([row.params.frequency_penalty for row in some], device)
        self._presence = _column([row.params.presence_penalty for row in some], device)

    def apply(self, scores: torch.Tensor) -> None:
        seen, counts = self._lists()
        some = scores[self._rows, seen]
        some = torch.where(some < 0, some * self._repetition, some / self._repetition)
        some = some - (self._frequency * counts + self._presence * (counts > 0))
        limit = torch.finfo(some.dtype).max  # a penalty near 0 would make infinities, and their difference is no number
        scores[self._rows, seen] = some.clamp(-limit, limit)

    def take(self, tokens: torch.Tensor) -> None:
        """tokens: int64 ``[these rows, 1]``, what each of them got."""
        seen, counts = self._lists()
        same = seen == tokens
        count = (counts * same).amax(-1, keepdim=True) + 1
        self._counts[:, : self._longest] = torch.where(same, count, counts)
        self._seen.scatter_(1, self._ends, tokens)
        self._counts.scatter_(1, self._ends, count)
        self._ends += 1
        self._longest += 1

    def _lists(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The tokens so far and how often the output has each, ``[rows, longest]``: all entries of one token tell the same. Beyond a
        row's own end its first entry stands again."""
        inside = torch.arange(self._longest, device=self._ends.device) < self._ends
        seen, counts = self._seen[:, : self._longest], self._counts[:, : self._longest]
        return torch.where(inside, seen, seen[:, :1]), torch.where(inside, counts, counts[:, :1])


class EarlyEnds:
    """``min_tokens``: before so many tokens nothing that ends the answer can be chosen."""

    def __init__(self, rows: Sequence[RowSampling], at: Sequence[int], device: torch.device) -> None:
        missing = [rows[i].params.min_tokens - rows[i].taken for i in at]
        self._rows = _column(at, device)
        self._ids = _padded([rows[i].unwanted for i in at], torch.long, device)
        self._missing = _column(missing, device)
        self._steps_left = max(missing)
        self._steps = 0

    def apply(self, scores: torch.Tensor) -> None:
        if self._steps < self._steps_left:
            early = self._missing > self._steps
            scores[self._rows, self._ids] = scores[self._rows, self._ids].masked_fill(early, -torch.inf)

    def take(self) -> None:
        self._steps += 1


class Structures:
    """What the matchers of its rows allow; everything else gets -inf."""

    def __init__(self, rows: Sequence[RowSampling], at: Sequence[int], vocab: int, device: torch.device) -> None:
        self._members = [rows[i] for i in at]
        self._at = torch.tensor(at).to(device, non_blocking=True)
        self._vocab = vocab
        words = -(-vocab // 32)
        self._masks = torch.zeros(len(at), words, dtype=torch.int32, pin_memory=device.type == "cuda")
        # The eight numbers to add for each value of a byte of a mask.
        bits = torch.arange(256).unsqueeze(1) >> torch.arange(8) & 1
        self._addends = torch.zeros(256, 8).masked_fill(bits == 0, -torch.inf).to(device)

    def apply(self, scores: torch.Tensor) -> None:
        """Raises: GenerationError of the first row whose matcher has failed."""
        for row, mask in zip(self._members, self._masks.numpy(), strict=True):
            assert row.matcher is not None
            row.matcher.fill(mask, row.unwanted if row.taken < row.params.min_tokens else ())
        masks = self._masks.to(scores.device, non_blocking=True).view(torch.uint8)
        addends = embedding(masks.int(), self._addends).view(len(masks), -1)[:, : self._vocab]
        if len(masks) == len(scores):
            scores.add_(addends)
        else:
            scores[self._at] = scores[self._at] + addends

    def take(self, tokens: Sequence[int]) -> None:
        """tokens: what each of these rows got."""
        for row, token in zip(self._members, tokens, strict=True):
            assert row.matcher is not None
            row.matcher.take(token)


def _column(values: Sequence[float], device: torch.device) -> torch.Tensor:
    """``[len, 1]``: int64 of whole numbers, float32 of others."""
    return torch.tensor(values).unsqueeze(1).to(device, non_blocking=True)


def _padded(lists: Sequence[Sequence[float]], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    longest = max(map(len, lists))
    full = [[*some, *[some[0]] * (longest - len(some))] for some in lists]
    return torch.tensor(full, dtype=dtype).to(device, non_blocking=True)
