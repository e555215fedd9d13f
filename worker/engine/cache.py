"""Keys and values of all slots, as a transformers ``Cache``.

On a CPU a slot is address space for a row of the longest context: the system gives it memory page by page as tokens are
written, so the page table is the system's (as in Prabhu et al., "vAttention: Dynamic Memory Management for Serving LLMs
without PagedAttention", ASPLOS 2025), and attention reads plain tensors. That measured faster than pages of our own, which
have to be gathered before each step (benchmarks/notes.md). How many tokens there may be in all is the ledger's matter.

All tokens of a step travel through the model as one packed row, ``[1, tokens, ...]``: first the newest token of each
decoding row (slots 0..r-1, in order), then the prompt chunks one after the other. So the matrix products see no padding.
The cache writes each token at its slot and position; ``attention.slot_attention`` reads the slots back.
"""

from __future__ import annotations

import math
import mmap
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from worker.engine.native.decode import DecodeAttention
from worker.engine.scheduler import Copy

_SPARE_BYTES = 64 * 1024**2  # less is not worth giving back
_NORESERVE = 0x4000  # MAP_NORESERVE, which Python's mmap does not name before 3.13


@dataclass(frozen=True, slots=True)
class PackedChunk:
    """Packed tokens ``first``..``last``-1 are positions ``start``..``end``-1 of ``slot``."""

    slot: int
    first: int
    last: int
    start: int
    end: int


@dataclass(slots=True)
class PackedBatch:
    """Where the packed tokens of one step belong.

    decoding: how many rows decode, r. slots, positions: int64 ``[r]``, of the decoding tokens. longest: the largest
    length among them, the new token included. chunks: the prompt tokens after them. kernel: what computes the attention
    of the decoding rows, where there is something better than torch's.
    """

    decoding: int
    slots: torch.Tensor
    positions: torch.Tensor
    longest: int
    chunks: tuple[PackedChunk, ...]
    kernel: DecodeAttention | None = None
    masks: dict[object, torch.Tensor] = field(default_factory=dict)


class Pages:
    """Anonymous memory for one tensor, zeros at first, that takes real memory only where it is written."""

    def __init__(self, size: int) -> None:
        """Raises: MemoryError, where the system refuses so much address space."""
        # Private, since pages of a shared mapping are not freed by MADV_DONTNEED; none reserved, since most of it is never used.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | (_NORESERVE if sys.platform == "linux" else 0)
        try:
            self.memory = mmap.mmap(-1, size, flags=flags)
        except OSError as error:
            raise MemoryError(f"{size} bytes of address space: {error}") from error
        if hasattr(mmap, "MADV_NOHUGEPAGE"):  # a huge page would take a whole slot's memory for its first tokens
            self.memory.madvise(mmap.MADV_NOHUGEPAGE)

    def give_back(self, start: int, end: int) -> None:
        """Bytes ``start``..``end``-1 are needed no more: whole pages among them go back to the system, and read as zeros."""
        first, last = _whole_pages(start, end)
        if last > first:
            self.memory.madvise(mmap.MADV_DONTNEED, first, last - first)

    def clear(self, start: int, end: int) -> None:
        """Bytes ``start``..``end``-1 read as zeros from now on."""
        self.give_back(start, end)
        first, last = _whole_pages(start, end)
        first, last = min(first, end), max(last, min(first, end))
        self.memory[start:first] = bytes(first - start)
        self.memory[last:end] = bytes(end - last)


def _whole_pages(start: int, end: int) -> tuple[int, int]:
    """Where the pages begin and end that lie wholly in there; the end is before the beginning where none does."""
    return -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE


def lazy_zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, Pages | None]:
    """Zeros; on a CPU in pages that take memory only once written, where ``torch.zeros`` would write them all now."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device), None
    pages = Pages(math.prod(shape) * dtype.itemsize)
    return torch.frombuffer(pages.memory, dtype=dtype).view(shape), pages


class AllocatedLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]  # its __init_subclass__ has no annotations
    """A layer of keys and values whose memory is there from the beginning, and which is not written through transformers."""

    is_sliding = False

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys, self.values = keys, values
        self.stores = (keys, values)
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        del key_states, value_states  # as said above

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        raise NotImplementedError("Who knows the step writes: SlotCache.update, paged_attention.")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        del query_length  # what a token sees follows from the batch
        return self.get_max_length(), 0

    def get_seq_length(self) -> int:
        return 0


class SlotLayer(AllocatedLayer):  # type: ignore[no-untyped-call]  # as above
    """One layer: ``keys`` and ``values`` are ``[slots, kv_heads, max_len, head_dim]``."""

    def write(self, keys: torch.Tensor, values: torch.Tensor, batch: PackedBatch) -> None:
        """Store packed states ``[1, kv_heads, tokens, head_dim]``."""
        rows = batch.decoding
        for store, states in zip(self.stores, (keys, values), strict=True):
            if rows and batch.kernel is not None and states.stride(3) == 1:
                batch.kernel.write(store, states[0, :, :rows], batch.slots, batch.positions)
            elif rows:
                store[batch.slots, :, batch.positions] = states[0, :, :rows].transpose(0, 1)
            for chunk in batch.chunks:
                store[chunk.slot, :, chunk.start : chunk.end] = states[0, :, chunk.first : chunk.last]

    def get_max_length(self) -> int:
        return self.stores[0].shape[2]


class SlotCache(Cache):
    """The cache of one model. Zeros at first: attention multiplies what it masks by 0, and 0 x NaN is NaN.

    tokens: how many may be there in all slots together; None: as many as the slots hold. More stay resident, of rows that
    left, only until the next step.
    """

    def __init__(
        self,
        shapes: Iterable[KeyValueShape],
        slots: int,
        max_len: int,
        device: torch.device,
        tokens: int | None = None,
    ) -> None:
        self._pages: list[tuple[Pages, int, int]] = []  # of each store; its heads; bytes of a token in one of them
        self.slot_layers = [
            SlotLayer(
                self._zeros((slots, shape.heads, max_len, shape.key_dim), shape.dtype, device),
                self._zeros((slots, shape.heads, max_len, shape.value_dim), shape.dtype, device),
            )
            for shape in shapes
        ]
        self._tokens = slots * max_len if tokens is None else tokens
        self._spare = _SPARE_BYTES // max(1, sum(token_bytes * heads for _, heads, token_bytes in self._pages))
        self._written = [0] * slots  # tokens of each slot that may have memory
        super().__init__(layers=list(self.slot_layers))
        self.slots = slots
        self.max_len = max_len
        self.batch: PackedBatch | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the step's states; returns the whole layer, ``[slots, kv_heads, max_len, head_dim]`` each."""
        del args, kwargs  # what other caches want to know
        assert self.batch is not None
        layer = self.slot_layers[layer_idx]
        layer.write(key_states, value_states, self.batch)
        return layer.stores

    def copy(self, copy: Copy) -> None:
        for layer in self.slot_layers:
            for store in layer.stores:
                store[copy.target, :, : copy.length] = store[copy.source, :, : copy.length]

    def clear(self, slot: int) -> None:
        """Zero a slot, so that NaN in it cannot reach the next row there."""
        self._written[slot] = 0
        for pages, heads, token_bytes in self._pages:
            whole = heads * self.max_len * token_bytes
            pages.clear(slot * whole, (slot + 1) * whole)
        if not self._pages:
            for layer in self.slot_layers:
                for store in layer.stores:
                    store[slot].zero_()

    def settle(self, lengths: Sequence[int]) -> None:
        """Give memory back where rows that left have more of it than those that are there. To be called before each step,
        with the tokens that slots 0, 1, 2, … will hold after it; later slots hold nothing.

        A page that is written again costs 1.4 µs, one given back 0.3 µs (measured); so it is done in bulk, when it frees more
        than what stays, and each page is paid for by the tokens that were written to it.
        """
        written = self._written
        written[: len(lengths)] = map(max, written, lengths)
        resident, used = sum(written), sum(lengths)
        if resident <= self._tokens and resident - used <= used + self._spare:
            return
        for slot, length in enumerate([*lengths, *[0] * (len(written) - len(lengths))]):
            if length < written[slot]:
                self._give_back(slot, length)
                written[slot] = length

    def _give_back(self, slot: int, length: int) -> None:
        """The memory of a slot from token ``length`` on."""
        for pages, heads, token_bytes in self._pages:
            whole = self.max_len * token_bytes  # of one head
            if length == 0:
                pages.give_back(slot * heads * whole, (slot + 1) * heads * whole)
                continue
            for head in range(slot * heads, (slot + 1) * heads):
                pages.give_back(head * whole + length * token_bytes, (head + 1) * whole)

    def _zeros(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        tensor, pages = lazy_zeros(shape, dtype, device)
        if pages is not None:
            self._pages.append((pages, shape[1], shape[3] * dtype.itemsize))
        return tensor


@dataclass(frozen=True, slots=True)
class KeyValueShape:
    """What one layer stores for a token."""

    heads: int
    key_dim: int
    value_dim: int
    dtype: torch.dtype

    @property
    def bytes_per_token(self) -> int:
        return self.heads * (self.key_dim + self.value_dim) * self.dtype.itemsize


def shapes_of(cache: Cache) -> list[KeyValueShape]:
    """The shapes that a model stored in a transformers cache. Raises: TypeError for a layer without keys and values."""
    shapes = []
    for layer in cache.layers:
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        if keys is None or values is None or keys.dim() != 4:
            raise TypeError(f"{type(layer).__name__} does not hold keys and values by position")
        shapes.append(KeyValueShape(keys.shape[1], keys.shape[3], values.shape[3], keys.dtype))
    return shapes
