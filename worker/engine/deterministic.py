"""A forward whose numbers for a token depend on the tokens before it and on nothing else.

A matrix product adds up in an order that depends on its shape: with one row another kernel runs than with four, with a few
more the threads share them otherwise, and attention cuts its sums at the longest row's length. So the same request gives other
last bits alone than in a batch, and at a near tie another token (measured in benchmarks/notes.md; the idea is that of He et al.,
"Defeating Nondeterminism in LLM Inference", Thinking Machines, 2025). Here no shape depends on the neighbours:

- The model runs over tiles of ``TILE`` tokens exactly, as many as a step needs; what a tile lacks is filled up. So every layer
  sees one shape, whoever is in it.
- Attention takes every token alone, at its exact length, where our own kernel is there. torch's takes the tokens of one row in
  blocks of ``TILE`` positions, counted from the row's beginning: a token stands at its place of the block, with as many keys as
  the block's end asks for, the later ones masked. So a token that is decoded has the same shapes as one that is computed with
  its prompt, wherever the prompt is cut, and a row that was preempted or finds its prefix computed gets the same keys and
  values again.
- Each row is sampled alone.

Left to the device is that a row's place in a tile, and its slot, change nothing. ``check`` tries that at start, on the model itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from shared.errors import ModelLoadError
from worker.engine.attention import refuse_more_than_plain
from worker.engine.cache import PackedBatch, PackedChunk
from worker.engine.model_runner import ModelRunner
from worker.engine.sequence import Row

ATTENTION = "smarttextgen_tiles"
TILE = 16  # tokens; 8 and 32 were slower on W (benchmarks/notes.md)


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a step: ``at`` is its place in the step."""

    at: int
    token: int
    position: int
    slot: int


@dataclass(frozen=True, slots=True)
class Run:
    """Tokens ``first``..``last``-1 of a tile. Their slots begin with ``slot`` and grow by ``step``, 0 (a prompt) or 1 (rows that
    decode)."""

    first: int
    last: int
    slot: int
    step: int


@dataclass(slots=True)
class Tile(PackedBatch):
    """``TILE`` tokens of a step. All that are real are in ``slots`` and ``positions``; ``spans`` are runs of one row within one
    block, ``runs`` what the kernel can do in one call, ``chunks`` is empty. span_of, place_of: int64 ``[real tokens]``, each token's span
    and place in its block."""

    spans: tuple[PackedChunk, ...] = ()
    span_of: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    place_of: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    runs: tuple[Run, ...] = ()


def register() -> None:
    """Make the attention known to transformers under ``ATTENTION``. Idempotent."""
    AttentionInterface.register(ATTENTION, tile_attention)


class TileRunner(ModelRunner):
    """A ``ModelRunner`` over a model whose attention is ``tile_attention``."""

    def forward(
        self, tokens: Sequence[int], positions: Sequence[int], batch: PackedBatch, wanted: Sequence[int]
    ) -> torch.Tensor:
        step = [Token(at, *of) for at, of in enumerate(zip(tokens, positions, _slots_of(batch), strict=True))]
        asked = set(wanted)
        ordered = _heads_last(step, asked)
        logits: dict[int, torch.Tensor] = {}
        for first in range(0, len(ordered), TILE):
            tile = ordered[first : first + TILE]
            keep = [place for place, token in enumerate(tile) if token.at in asked]
            found = self._forward_tile(tile, keep)
            logits |= {tile[place].at: row for place, row in zip(keep, found, strict=False)}
        return torch.stack([logits[at] for at in wanted])

    def _forward_tile(self, tile: Sequence[Token], keep: Sequence[int]) -> torch.Tensor:
        """keep: places of the tile whose logits are needed. float32 ``[TILE or 1, vocab]``, those first."""
        filled = [*tile, *[tile[0]] * (TILE - len(tile))]
        return super().forward(
            [token.token for token in filled],
            [token.position for token in filled],
            self._batch_of(tile),
            [*keep, *[0] * (TILE - len(keep))] if keep else [0],
        )

    def _batch_of(self, tile: Sequence[Token]) -> Tile:
        spans = list(_spans(tile))
        span_of = [at for at, span in enumerate(spans) for _ in range(span.first, span.last)]
        of = torch.tensor(
            [
                [token.slot for token in tile],
                [token.position for token in tile],
                span_of,
                [token.position % TILE for token in tile],
            ],
            dtype=torch.long,
        ).to(self.device)
        runs = tuple(_runs(tile)) if self.kernel is not None else ()
        return Tile(len(tile), of[0], of[1], 0, (), self.kernel, {}, tuple(spans), of[2], of[3], runs)

    def _sample(self, logits: torch.Tensor, rows: Sequence[Row]) -> Sequence[int | Exception | None]:
        return [self._sample_alone(logits[at : at + 1], row) for at, row in enumerate(rows)]

    def _tell(self, logits: torch.Tensor, rows: Sequence[Row], tokens: Sequence[int | Exception]) -> None:
        for at in range(len(rows)):
            super()._tell(logits[at : at + 1], rows[at : at + 1], tokens[at : at + 1])


def _slots_of(batch: PackedBatch) -> list[int]:
    return [*range(batch.decoding), *(chunk.slot for chunk in batch.chunks for _ in range(chunk.first, chunk.last))]


def _heads_last(step: Sequence[Token], wanted: set[int]) -> list[Token]:
    """Logits are computed for whole tiles, so those who need them go last, together. Only where nothing of the same row comes
    after them: a token's keys must be there before the next tile asks for them."""
    free: set[int] = set()
    fixed: set[int] = set()  # slots
    for token in reversed(step):
        if token.at in wanted and token.slot not in fixed:
            free.add(token.at)
        else:
            fixed.add(token.slot)
    return sorted(step, key=lambda token: token.at in free)


def _spans(tile: Sequence[Token]) -> Iterator[PackedChunk]:
    """Neighbours in the tile that are neighbours in one block of one row."""
    first = 0
    for at in range(1, len(tile) + 1):
        before = tile[at - 1]
        goes_on = (
            at < len(tile)
            and tile[at].slot == before.slot
            and tile[at].position == before.position + 1
            and tile[at].position % TILE != 0
        )
        if not goes_on:
            yield PackedChunk(before.slot, first, at, tile[first].position, before.position + 1)
            first = at


def _runs(tile: Sequence[Token]) -> Iterator[Run]:
    """As few as there can be."""
    first, step = 0, None
    for at in range(1, len(tile) + 1):
        grows = tile[at].slot - tile[at - 1].slot if at < len(tile) else None
        if grows not in (0, 1) or step not in (None, grows):
            yield Run(first, at, tile[first].slot, step or 0)
            first, step = at, None
        else:
            step = grows


def tile_attention(
    module: torch.nn.Module,  # noqa: ARG001  # transformers' signature
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001  # the same
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    slot_batch: Tile | None = None,
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """Attend a tile's queries to their own slots: by our kernel, which takes each token at its exact length, or by torch's in
    shapes that follow from the token's block alone.

    query: ``[1, heads, TILE, head_dim]``. key, value: a layer of the slot cache, ``[slots, kv_heads, max_len, head_dim]``, the
    tile's own tokens already in it. Returns ``[1, TILE, heads, value_dim]`` and None.

    Raises: NotImplementedError for a model that needs more than this.
    """
    refuse_more_than_plain(kwargs)
    assert slot_batch is not None
    out = query.new_zeros(TILE, query.shape[1], value.shape[3])
    by_token = query[0].transpose(0, 1)
    if slot_batch.kernel is None or by_token.stride(2) != 1:
        _attend_blocks(out, by_token, key, value, scaling, sliding_window, slot_batch)
        return out.unsqueeze(0), None
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    for run in slot_batch.runs:
        here = slice(run.first, run.last)
        keys, values = (_of_run(run, states) for states in (key, value))
        positions = slot_batch.positions[here]
        slot_batch.kernel(out[here], by_token[here], keys, values, positions, scale, sliding_window)
    return out.unsqueeze(0), None


def _of_run(run: Run, states: torch.Tensor) -> torch.Tensor:
    """The slot of each of the run's tokens: a view."""
    if run.step:
        return states[run.slot : run.slot + run.last - run.first]
    return states[run.slot : run.slot + 1].expand(run.last - run.first, -1, -1, -1)


def _attend_blocks(
    out: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    sliding_window: int | None,
    tile: Tile,
) -> None:
    """torch's attention, one call for each span. query: ``[TILE, heads, head_dim]``."""
    heads, head_dim, kv_heads, value_dim = query.shape[1], query.shape[2], key.shape[1], value.shape[3]
    real, shared = tile.decoding, heads // kv_heads
    queries = query.new_zeros(len(tile.spans), kv_heads, shared, TILE, head_dim)
    queries[tile.span_of, :, :, tile.place_of] = query[:real].reshape(real, kv_heads, shared, head_dim)
    attended = query.new_empty(len(tile.spans), kv_heads, shared, TILE, value_dim)
    for at, span in enumerate(tile.spans):
        block = span.start // TILE
        end = min((block + 1) * TILE, key.shape[2])
        attended[at] = scaled_dot_product_attention(
            queries[at].view(1, kv_heads, shared * TILE, head_dim),
            key[span.slot : span.slot + 1, :, :end],
            value[span.slot : span.slot + 1, :, :end],
            attn_mask=_mask(tile, block, end, sliding_window, shared),
            scale=scaling,
        ).view(kv_heads, shared, TILE, value_dim)
    out[:real] = attended[tile.span_of, :, :, tile.place_of].reshape(real, heads, value_dim)


def _mask(tile: Tile, block: int, end: int, window: int | None, shared: int) -> torch.Tensor:
    """bool ``[shared * TILE, end]``: what each place of the block sees; made once a tile."""
    mask = tile.masks.get((block, window, shared))
    if mask is None:
        at = torch.arange(end, device=tile.positions.device)
        now = torch.arange(block * TILE, (block + 1) * TILE, device=tile.positions.device)[:, None]
        mask = at <= now
        if window is not None:
            mask &= at > now - window
        tile.masks[block, window, shared] = mask = mask.repeat(shared, 1)
    return mask


def check(runner: ModelRunner, vocab_size: int) -> None:
    """Compute a row alone, then in other slots, at other places of a tile, beside others, in other chunks and by decoding: every
    logit, key and value has to be the same to the last bit.

    Raises: ModelLoadError where one is not.
    """
    slots = min(3, runner.cache.slots)
    length = min(TILE + 6, runner.cache.max_len)
    tokens = [(7919 * at + 13) % vocab_size for at in range(length)]
    expected = _Trial(runner, tokens).alone()
    # Neighbours move the row's tokens to other places of the tile; the last cut leaves a block's end to decoding.
    for neighbours, cut in ((1, length - 1), (TILE // 2 + 1, length - 1), (TILE - 1, length - 2), (0, length - 8)):
        if not _same(expected, _Trial(runner, tokens).beside(neighbours if slots > 1 else 0, cut, slots)):
            raise ModelLoadError(
                "This model on this device computes other numbers for a request alone than beside others, so "
                "DETERMINISTIC cannot be kept. Set it to false, or try another device or number of ENGINE_THREADS.",
                param="deterministic",
            )
    for slot in range(slots):
        runner.cache.clear(slot)


@dataclass(frozen=True, slots=True)
class _Trial:
    """One way to compute ``tokens``. Each returns the logits after the last of them, then keys and values."""

    runner: ModelRunner
    tokens: list[int]

    def alone(self) -> list[torch.Tensor]:
        length = len(self.tokens)
        batch = self.runner.packed_batch([], [PackedChunk(0, 0, length, 0, length)])
        logits = self.runner.forward(self.tokens, range(length), batch, [length - 1])
        return [logits[0], *self._stored(0)]

    def beside(self, neighbours: int, cut: int, slots: int) -> list[torch.Tensor]:
        """To ``cut`` in one chunk in the last slot, after ``neighbours`` tokens of another row; the rest by decoding, all slots."""
        length, slot = len(self.tokens), slots - 1
        chunks = [PackedChunk(0, 0, neighbours, 0, neighbours)] if neighbours else []
        chunks.append(PackedChunk(slot, neighbours, neighbours + cut, 0, cut))
        others = self.tokens[::-1][:neighbours]
        batch = self.runner.packed_batch([], chunks)
        self.runner.forward(
            [*others, *self.tokens[:cut]], [*range(neighbours), *range(cut)], batch, [neighbours + cut - 1]
        )
        for at in range(cut, length):
            lengths = [min(at, neighbours)] * slot + [at]
            said = [*[self.tokens[-1]] * slot, self.tokens[at]]
            logits = self.runner.forward(said, lengths, self.runner.packed_batch(lengths, []), [*range(slots)])
        return [logits[-1], *self._stored(slot)]

    def _stored(self, slot: int) -> list[torch.Tensor]:
        layers = self.runner.cache.slot_layers
        return [store[slot, :, : len(self.tokens)].clone() for layer in layers for store in layer.stores]


def _same(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
