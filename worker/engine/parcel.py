"""Many small tensors to the device in one transfer, and the part of a step made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

import torch

from worker.engine.decode_inputs import Span
from worker.engine.paged_cache import Part
from worker.engine.pages import SCRATCH

_HALVES = 2  # int32 numbers in a word


class Parcel:
    """Add lists of whole numbers, ``send``, and take them out again by the keys that ``add`` returned."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._wide: list[int] = []
        self._narrow: list[int] = []
        self._bounds: list[tuple[bool, int, int]] = []
        self._views: tuple[torch.Tensor, torch.Tensor] | None = None

    def add(self, numbers: Sequence[int], *, narrow: bool = False) -> int:
        """As int64, or as int32 if ``narrow``."""
        store = self._narrow if narrow else self._wide
        self._bounds.append((narrow, len(store), len(store) + len(numbers)))
        store += numbers
        return len(self._bounds) - 1

    def send(self) -> None:
        """Starts the transfer; what follows on the same stream finds it done."""
        wide, narrow = len(self._wide), len(self._narrow)
        pinned = self._device.type == "cuda"
        staged = torch.empty(wide + (narrow + 1) // _HALVES, dtype=torch.long, pin_memory=pinned)
        staged[:wide] = torch.tensor(self._wide, dtype=torch.long)
        staged[wide:].view(torch.int32)[:narrow] = torch.tensor(self._narrow, dtype=torch.int32)
        sent = staged.to(self._device, non_blocking=True)
        self._views = sent[:wide], sent[wide:].view(torch.int32)

    def __getitem__(self, key: int) -> torch.Tensor:
        assert self._views is not None
        narrow, first, last = self._bounds[key]
        return self._views[narrow][first:last]


def add_part(parcel: Parcel, spans: Sequence[Span], page_size: int) -> Callable[[Parcel], Part]:
    """Put the part of ``spans`` into the parcel. Returns how to take it out once sent."""
    width = max(len(span.pages) for span in spans)
    lengths = [len(span.tokens) for span in spans]
    starts_q = parcel.add([0, *accumulate(lengths)], narrow=True)
    used = parcel.add([span.end for span in spans], narrow=True)
    starts_k = parcel.add([*(span.pages[0] * page_size for span in spans), 0], narrow=True)
    padded = [[*span.pages, *[SCRATCH] * (width - len(span.pages))] for span in spans]
    table = parcel.add([page for pages in padded for page in pages], narrow=True)
    longest_q, longest_k = max(lengths), max(span.end for span in spans)

    def take(sent: Parcel) -> Part:
        pages = sent[table].view(len(spans), width)
        return Part(sent[starts_q], sent[used], pages, sent[starts_k], longest_q, longest_k)

    return take
