"""Attention over the slot cache, as a transformers attention function (``AttentionInterface``).

Models built on that interface hand their queries to it with ``scaling`` and, where they have one, ``sliding_window``.
Anything else that changes the scores (soft-capping, sinks, position biases) is refused, and so found at load.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from worker.engine.cache import PackedBatch, PackedChunk

NAME = "smarttextgen_slots"

_REFUSED = ("softcap", "s_aux", "position_bias")


def register() -> None:
    """Make the function known to transformers under ``NAME``. Idempotent."""
    AttentionInterface.register(NAME, slot_attention)


def slot_attention(
    module: torch.nn.Module,  # noqa: ARG001  # transformers' signature
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001  # the same
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    slot_batch: PackedBatch | None = None,
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """Attend packed queries to their own slots.

    query: ``[1, heads, tokens, head_dim]``. key, value: a layer of the slot cache, ``[slots, kv_heads, max_len,
    head_dim]``, the step's own tokens already in it. attention_mask: not used; which token sees what follows from
    ``slot_batch``. Returns ``[1, tokens, heads, value_dim]`` and None.

    Raises: NotImplementedError for a model that needs more than this.
    """
    refuse_more_than_plain(kwargs)
    assert slot_batch is not None
    out = query.new_empty(query.shape[2], query.shape[1], value.shape[3])
    out[slot_batch.chunks[-1].last if slot_batch.chunks else slot_batch.decoding :] = 0
    if slot_batch.decoding:
        _attend_decoding(out, query, key, value, scaling, sliding_window, slot_batch)
    for chunk in slot_batch.chunks:
        _attend_chunk(out, query, key, value, scaling, sliding_window, chunk)
    return out.unsqueeze(0), None


def refuse_more_than_plain(given: Mapping[str, object]) -> None:
    """Raises: NotImplementedError for an argument that would change the scores."""
    refused = [name for name in _REFUSED if given.get(name) is not None]
    if refused:
        raise NotImplementedError(f"attention with {', '.join(refused)}")


def _attend_decoding(
    out: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    window: int | None,
    batch: PackedBatch,
) -> None:
    """One query for each of slots 0..r-1. The heads that share a key head become its queries, so nothing is repeated."""
    rows, longest, heads = batch.decoding, batch.longest, key.shape[1]
    newest = query[0, :, :rows].transpose(0, 1)
    if batch.kernel is not None and newest.stride(2) == 1:
        scale = query.shape[3] ** -0.5 if scaling is None else scaling
        batch.kernel(out, newest, key, value, batch.positions, scale, window)
        return
    grouped = newest.reshape(rows, heads, -1, query.shape[3])
    attended = scaled_dot_product_attention(
        grouped,
        key[:rows, :, :longest],
        value[:rows, :, :longest],
        attn_mask=_decoding_mask(batch, window),
        scale=scaling,
    )
    out[:rows] = attended.reshape(rows, query.shape[1], value.shape[3])


def _decoding_mask(batch: PackedBatch, window: int | None) -> torch.Tensor:
    """bool ``[r, 1, 1, longest]``, made once a step for all layers with the same window."""
    mask = batch.masks.get(window)
    if mask is None:
        at = torch.arange(batch.longest, device=batch.positions.device)
        now = batch.positions[:, None]
        mask = at <= now
        if window is not None:
            mask &= at > now - window
        batch.masks[window] = mask = mask[:, None, None, :]
    return mask


def _attend_chunk(
    out: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    window: int | None,
    chunk: PackedChunk,
) -> None:
    plain = chunk.start == 0 and (window is None or chunk.end <= window)
    attended = scaled_dot_product_attention(
        query[:, :, chunk.first : chunk.last],
        key[chunk.slot : chunk.slot + 1, :, : chunk.end],
        value[chunk.slot : chunk.slot + 1, :, : chunk.end],
        attn_mask=None if plain else _chunk_mask(chunk, window, query.device),
        is_causal=plain,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    out[chunk.first : chunk.last] = attended[0].transpose(0, 1)


def _chunk_mask(chunk: PackedChunk, window: int | None, device: torch.device) -> torch.Tensor:
    """bool ``[chunk tokens, end]``."""
    at = torch.arange(chunk.end, device=device)
    now = torch.arange(chunk.start, chunk.end, device=device)[:, None]
    mask = at <= now
    if window is not None:
        mask &= at > now - window
    return mask
