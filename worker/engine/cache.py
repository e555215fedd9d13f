"""Keys and values of all slots, allocated once, as a transformers ``Cache``.

All tokens of a step travel through the model as one packed row, ``[1, tokens, ...]``: first the newest token of each
decoding row (slots 0..r-1, in order), then the prompt chunks one after the other. So the matrix products see no padding.
The cache writes each token at its slot and position; ``attention.slot_attention`` reads the slots back.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from worker.engine.native.decode import DecodeAttention
from worker.engine.scheduler import Copy


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


class SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]  # its __init_subclass__ has no annotations
    """One layer: ``keys`` and ``values`` are ``[slots, kv_heads, max_len, head_dim]``."""

    is_sliding = False

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys, self.values = keys, values
        self.stores = (keys, values)
        self.is_initialized = True

    def write(self, keys: torch.Tensor, values: torch.Tensor, batch: PackedBatch) -> None:
        """Store packed states ``[1, kv_heads, tokens, head_dim]``."""
        rows = batch.decoding
        for store, states in zip(self.stores, (keys, values), strict=True):
            if rows:
                store[batch.slots, :, batch.positions] = states[0, :, :rows].transpose(0, 1)
            for chunk in batch.chunks:
                store[chunk.slot, :, chunk.start : chunk.end] = states[0, :, chunk.first : chunk.last]

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        del key_states, value_states  # the stores are there from the beginning

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        raise NotImplementedError("SlotCache.update writes, since it knows the batch.")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        del query_length  # the masks are made in attention.py
        return self.get_max_length(), 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return self.stores[0].shape[2]


class SlotCache(Cache):
    """The cache of one model. Zeros at first: attention multiplies what it masks by 0, and 0 x NaN is NaN."""

    def __init__(self, shapes: Iterable[KeyValueShape], slots: int, max_len: int, device: torch.device) -> None:
        self.slot_layers = [
            SlotLayer(
                _zeros((slots, shape.heads, max_len, shape.key_dim), shape.dtype, device),
                _zeros((slots, shape.heads, max_len, shape.value_dim), shape.dtype, device),
            )
            for shape in shapes
        ]
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
        for layer in self.slot_layers:
            for store in layer.stores:
                store[slot].zero_()


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros; on a CPU in pages that take memory only once written, where ``torch.zeros`` would write them all now."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    pages = mmap.mmap(-1, math.prod(shape) * dtype.itemsize)
    return torch.frombuffer(pages, dtype=dtype).view(shape)


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
