"""Keys and values in pages, as a transformers ``Cache``.

The tokens of a forward travel packed as ``[1, tokens, ...]``: the newest ones of decoding rows, or prompt chunks one after the other.
Each token has a place, page x page size + offset, where its keys and values are written; attention finds a row's tokens by its
list of pages. The work itself is done in ``paged_attention``, which knows the step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from transformers.cache_utils import Cache

from worker.engine.cache import AllocatedLayer, KeyValueShape


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of a forward: decoding ones, or prompt chunks.

    starts_q: int32 ``[rows + 1]``, where each row's tokens start among the packed ones. used: int32
    ``[rows]``, tokens that each row has in the cache, the step's own included. table: int32 ``[rows, width]``, each row's pages.
    starts_k: int32 ``[rows + 1]``, place of each row's first token. longest_q, longest_k: no row has more of either.
    """

    starts_q: torch.Tensor
    used: torch.Tensor
    table: torch.Tensor
    starts_k: torch.Tensor
    longest_q: int
    longest_k: int


@dataclass(frozen=True, slots=True)
class PagedBatch:
    """places: int64 ``[tokens]``, where each packed token is written."""

    places: torch.Tensor
    part: Part


class PagedLayer(AllocatedLayer):  # type: ignore[no-untyped-call]  # as there
    """One layer: ``keys`` and ``values`` are ``[pages, page_size, kv_heads, head_dim]``."""

    def get_max_length(self) -> int:
        return self.stores[0].shape[0] * self.stores[0].shape[1]


class PagedCache(Cache):
    """Pages for every layer. ``update`` hands the new states on as they are; ``paged_attention`` writes them."""

    def __init__(self, shapes: Iterable[KeyValueShape], pages: int, page_size: int, device: torch.device) -> None:
        layers = []
        for shape in shapes:
            key_shape = (pages, page_size, shape.heads, shape.key_dim)
            value_shape = (pages, page_size, shape.heads, shape.value_dim)
            # Zeros: what is masked out still takes part in products, where a NaN would spoil it.
            layers.append(PagedLayer(
                torch.zeros(key_shape, dtype=shape.dtype, device=device),
                torch.zeros(value_shape, dtype=shape.dtype, device=device),
            ))  # fmt: skip
        super().__init__(layers=layers)  # type: ignore[arg-type]
        self.paged_layers = layers
        self.pages, self.page_size, self.device = pages, page_size, device
        self.page_bytes = sum(store[0].nbytes for layer in layers for store in layer.stores)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        del layer_idx, args, kwargs
        return key_states, value_states

    def write(self, layer: int, keys: torch.Tensor, values: torch.Tensor, places: torch.Tensor) -> None:
        """keys, values: ``[tokens, kv_heads, head_dim]``. places: int64 ``[tokens]``."""
        for store, states in zip(self.paged_layers[layer].stores, (keys, values), strict=True):
            store.flatten(0, 1).index_copy_(0, places, states)

    def copy(self, sources: list[int], targets: list[int]) -> None:
        """Copy whole pages."""
        if sources:
            source, target = torch.tensor([sources, targets], dtype=torch.long).to(self.device)
            for layer in self.paged_layers:
                for store in layer.stores:
                    store.index_copy_(0, target, store[source])

    def clear(self, slot: int) -> None:
        """Nothing to do: of a page only what its holder has written is read."""
