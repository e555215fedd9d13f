"""The inputs of a decoding step, at addresses that never change: a captured CUDA graph reads them there, and one transfer from
pinned memory fills them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from worker.engine.pages import SCRATCH

_WIDE = 3  # inputs of 64 bits a row: token, position, place


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens of one row in a step: ``tokens`` follow the ``start`` that are in the cache already; ``pages`` have room for them."""

    tokens: Sequence[int]
    start: int
    pages: list[int]

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)

    def places(self, page_size: int) -> list[int]:
        """Where each is written: page x page size + offset."""
        return [self.pages[at // page_size] * page_size + at % page_size for at in range(self.start, self.end)]


@dataclass(frozen=True, slots=True)
class DecodeViews:
    """tokens, positions, places: int64 ``[rows]``. used: int32 ``[rows]``; starts_k: int32 ``[rows + 1]``; table: int32 ``[rows,
    width]``; these three as in ``Part``."""

    tokens: torch.Tensor
    positions: torch.Tensor
    places: torch.Tensor
    used: torch.Tensor
    starts_k: torch.Tensor
    table: torch.Tensor


class DecodeInputs:
    """Room for ``rows`` rows of at most ``width`` pages. Rows that are not there read and write the scratch page."""

    def __init__(self, rows: int, width: int, page_size: int, device: torch.device) -> None:
        self._rows, self._width, self._page_size = rows, width, page_size
        narrow = rows + (rows + 1) + rows * width
        words = _WIDE * rows + (narrow + 1) // 2
        self._staged = torch.zeros(words, dtype=torch.long, pin_memory=device.type == "cuda")
        self._sent = torch.zeros(words, dtype=torch.long, device=device)
        self._host, self._device = self._views(self._staged), self._views(self._sent)
        self._sending = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._seated: list[list[int]] = [[SCRATCH]] * rows  # the pages that the table shows

    def send(self, rows: Sequence[Span], bucket: int) -> None:
        """Stage ``rows`` of one token each, fill up to ``bucket``, start the transfer."""
        if self._sending is not None:
            self._sending.synchronize()  # the last one has to be over before its memory is written again
        host, count = self._host, len(rows)
        host.tokens[:count] = torch.tensor([row.tokens[0] for row in rows])
        host.positions[:count] = torch.tensor([row.start for row in rows])
        host.places[:count] = torch.tensor([row.places(self._page_size)[0] for row in rows])
        torch.add(host.positions[:count], 1, out=host.used[:count])
        for index, row in enumerate(rows):
            self._seat(index, row.pages)
        for views in (host.tokens, host.positions, host.places):
            views[count:bucket] = SCRATCH
        host.used[count:bucket] = 1
        for index in range(count, bucket):
            self._seat(index, [SCRATCH])
        self._sent.copy_(self._staged, non_blocking=True)
        if self._sending is not None:
            self._sending.record()

    def views(self, bucket: int) -> DecodeViews:
        """On the device, of the first ``bucket`` rows."""
        there = self._device
        return DecodeViews(
            there.tokens[:bucket],
            there.positions[:bucket],
            there.places[:bucket],
            there.used[:bucket],
            there.starts_k[: bucket + 1],
            there.table[:bucket],
        )

    def _seat(self, index: int, pages: list[int]) -> None:
        """A row's pages change once in ``page_size`` steps: only then is anything written."""
        if self._seated[index] != pages:
            self._host.table[index, : len(pages)] = torch.tensor(pages, dtype=torch.int32)
            self._host.starts_k[index] = pages[0] * self._page_size
            self._seated[index] = list(pages)

    def _views(self, words: torch.Tensor) -> DecodeViews:
        rows = self._rows
        tokens, positions, places = words[: _WIDE * rows].view(_WIDE, rows)
        narrow = words[_WIDE * rows :].view(torch.int32)
        used, starts_k = narrow[:rows], narrow[rows : 2 * rows + 1]
        table = narrow[2 * rows + 1 : 2 * rows + 1 + rows * self._width].view(rows, self._width)
        return DecodeViews(tokens, positions, places, used, starts_k, table)
