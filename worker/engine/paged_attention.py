"""Attention over pages: write the step's keys and values, then attend, in one operator that transformers calls in every layer.

The step is not among the operator's arguments but found through the thread that runs it. So a compiled model sees a plain function
of queries, keys and values, neither traces into the cache nor copies it, and one compiled graph serves every step.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from worker.engine.paged_cache import PagedBatch, PagedCache, Part

NAME = "smarttextgen_pages"

_REFUSED = ("softcap", "s_aux", "position_bias")
_NO_WINDOW = -1


class Kernel(Protocol):
    """Attend to pages."""

    def __call__(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, part: Part, scale: float, window: int
    ) -> torch.Tensor:
        """query: ``[tokens, heads, head_dim]``, of the rows of ``part`` one after the other. keys, values: ``[pages, page_size,
        kv_heads, head_dim]``. window: each token sees so many, itself included; -1 for all. Returns ``[tokens, heads, value_dim]``.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Step:
    cache: PagedCache
    batch: PagedBatch
    kernel: Kernel


_running = threading.local()


@contextmanager
def stepping(cache: PagedCache, batch: PagedBatch, kernel: Kernel) -> Iterator[None]:
    """What the layers called by this thread attend to meanwhile."""
    _running.step = _Step(cache, batch, kernel)
    try:
        yield
    finally:
        _running.step = None


def register() -> None:
    """Make the function known to transformers under ``NAME``. Idempotent."""
    AttentionInterface.register(NAME, paged_attention)


def paged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001  # transformers' signature
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """query, key, value: ``[1, heads, tokens, head_dim]``, packed. Returns ``[1, tokens, heads, value_dim]`` and None.

    Raises: NotImplementedError for a model that needs more than this.
    """
    refused = [name for name in _REFUSED if kwargs.get(name) is not None]
    if refused:
        raise NotImplementedError(f"attention with {', '.join(refused)}")
    layer = module.layer_idx
    assert isinstance(layer, int)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    window = _NO_WINDOW if sliding_window is None else sliding_window
    if torch.compiler.is_compiling():
        return _attend_op(query, key, value, layer, scale, window), None
    return _attend(query, key, value, layer, scale, window), None


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layer: int, scale: float, window: int
) -> torch.Tensor:
    step: _Step | None = getattr(_running, "step", None)
    if step is None:
        raise NotImplementedError("attention outside of a step")
    step.cache.write(layer, key[0].transpose(0, 1), value[0].transpose(0, 1), step.batch.places)
    (keys, values), packed = step.cache.paged_layers[layer].stores, query[0].transpose(0, 1)
    return step.kernel(packed, keys, values, step.batch.part, scale, window).unsqueeze(0)


_attend_op = torch.library.custom_op(
    "smarttextgen::paged_attention",
    _attend,
    mutates_args=(),
    schema="(Tensor query, Tensor key, Tensor value, int layer, float scale, int window) -> Tensor",
)


@_attend_op.register_fake
def _attended_shape(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layer: int, scale: float, window: int
) -> torch.Tensor:
    del key, layer, scale, window
    return query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])


def plain_kernel(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, part: Part, scale: float, window: int
) -> torch.Tensor:
    """The ``Kernel`` in plain torch, row by row: what it should compute, said as simply as possible. For tests and CPUs."""
    out = query.new_empty(query.shape[0], query.shape[1], values.shape[3])
    starts, page_size = part.starts_q.tolist(), keys.shape[1]
    for row, used in enumerate(part.used.tolist()):
        first, last = starts[row], starts[row + 1]
        pages = part.table[row, : -(-used // page_size)].long()
        seen_keys, seen_values = (store[pages].flatten(0, 1)[:used].transpose(0, 1) for store in (keys, values))
        attended = scaled_dot_product_attention(
            query[first:last].transpose(0, 1),
            seen_keys,
            seen_values,
            attn_mask=_mask(last - first, used, window, query.device),
            scale=scale,
            enable_gqa=query.shape[1] != keys.shape[2],
        )
        out[first:last] = attended.transpose(0, 1)
    return out


def _mask(tokens: int, used: int, window: int, device: torch.device) -> torch.Tensor:
    """bool ``[tokens, used]``: the row's newest ``tokens`` of ``used``, each sees itself and what was before."""
    at = torch.arange(used, device=device)
    now = torch.arange(used - tokens, used, device=device)[:, None]
    mask = at <= now
    return mask if window == _NO_WINDOW else mask & (at > now - window)
