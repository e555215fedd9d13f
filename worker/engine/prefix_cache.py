"""Keys and values of prompts and answers that were computed before, so that they are not computed twice.

They are copied out of the slots, block by block, and into the slot of a row that begins with the same tokens. They have memory of
their own, as much as was set aside for them and not more; on a CPU it is taken only once it is written.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from worker.engine.cache import Pages, SlotCache, lazy_zeros
from worker.engine.prefix_index import Chain, PrefixIndex
from worker.engine.sequence import Row

logger = logging.getLogger(__name__)

BLOCK = 16  # tokens


def block_bytes(cache: SlotCache, block: int = BLOCK) -> int:
    """What one block takes."""
    stores = (store for layer in cache.slot_layers for store in layer.stores)
    return block * sum(store.shape[1] * store.shape[3] * store.dtype.itemsize for store in stores)


class PrefixCache:
    """What rows of ``cache`` may reuse. size: bytes, at most, and those of one block at least (``block_bytes``). Everything here
    is called on the engine's thread."""

    def __init__(self, cache: SlotCache, size: int, block: int = BLOCK) -> None:
        self._cache = cache
        self._block = block
        stores = [store for layer in cache.slot_layers for store in layer.stores]
        self._block_bytes = block_bytes(cache, block)
        room = size // self._block_bytes
        self._index = PrefixIndex(room)
        self._pages: list[Pages] = []
        # Of each of the cache's stores: [blocks, kv_heads, block tokens, dim]
        self._blocks = [self._zeros((room, store.shape[1], block, store.shape[3]), store) for store in stores]
        self._chains: dict[Row, Chain] = {}
        self._found: dict[Row, list[int]] = {}
        self.queries = self.hits = 0

    @property
    def held_bytes(self) -> int:
        return len(self._index) * self._block_bytes

    def find(self, row: Row) -> int:
        """How many of the row's first tokens are there: whole blocks, and never all of it, since its last token has to be
        computed. ``fill`` must follow before anything else is kept."""
        chain = self._chain(row)
        most = chain.length(row.length - 1)
        if not most:
            return 0
        found = self._index.find(chain, most)
        if not row.output:
            self.queries += len(row.prompt)
            self.hits += len(found) * self._block
        if found:
            self._found[row] = found
        return len(found) * self._block

    def fill(self, row: Row) -> None:
        """Copy what was found for the row into its slot."""
        found = self._found.pop(row)
        places = torch.tensor(found, device=self._blocks[0].device)
        for store, blocks in zip(self._stores(), self._blocks, strict=True):
            target = store[row.slot, :, : len(found) * self._block]
            self._split(target).copy_(blocks[places].transpose(0, 1))

    def keep(self, row: Row, tokens: int) -> None:
        """The keys and values of the row's first ``tokens`` are in its slot, and sound: keep those that may be reused. Whatever
        goes wrong here costs what was kept, and nothing else."""
        try:
            self._keep(row, tokens)
        except Exception:
            logger.exception("What was computed could not be kept.")
            self.clear()

    def forget(self, row: Row) -> None:
        """It will not come back. What was kept of it stays."""
        self._chains.pop(row, None)
        self._found.pop(row, None)

    def clear(self) -> None:
        """Drop everything, and give the memory back."""
        self._index.clear()
        self._found.clear()
        for pages in self._pages:
            pages.give_back(0, len(pages.memory))

    def _keep(self, row: Row, tokens: int) -> None:
        chain = self._chain(row)
        count = chain.length(tokens)
        if not count:
            return
        known = len(self._index.find(chain, count))
        if known == count:
            return
        places = self._index.make_room(chain, known, count)
        if self._copy(row.slot, known, places):
            self._index.add(chain, known, places)
        else:
            self._index.give_back(places)

    def _copy(self, slot: int, first: int, places: Sequence[int]) -> bool:
        """Blocks from ``first`` on into ``places``. False where something in them is no number: a row's own logits show that
        too, but only of what its last token sees."""
        if not places:
            return True
        at = torch.tensor(places, device=self._blocks[0].device)
        sums = []
        for store, blocks in zip(self._stores(), self._blocks, strict=True):
            part = store[slot, :, first * self._block : (first + len(places)) * self._block]
            blocks[at] = self._split(part).transpose(0, 1)
            sums.append(part.sum(dtype=torch.float32))
        return bool(torch.stack(sums).isfinite().all())

    def _split(self, states: torch.Tensor) -> torch.Tensor:
        """``[kv_heads, tokens, dim]`` as ``[kv_heads, blocks, block tokens, dim]``."""
        return states.view(states.shape[0], -1, self._block, states.shape[2])

    def _chain(self, row: Row) -> Chain:
        chain = self._chains.get(row)
        if chain is None:
            chain = self._chains[row] = Chain(row, self._block)
        return chain

    def _stores(self) -> list[torch.Tensor]:
        return [store for layer in self._cache.slot_layers for store in layer.stores]

    def _zeros(self, shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
        tensor, pages = lazy_zeros(shape, like.dtype, like.device)
        if pages is not None:
            self._pages.append(pages)
        return tensor
