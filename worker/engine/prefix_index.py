"""Which blocks of tokens were computed before, and where they lie. Names and places, no tensors.

A block is a fixed number of tokens with all that came before them: its name is a hash over its parent's name and its tokens (as
vLLM's prefix caching does). A name holds whose tokens they are too, so what one tenant's text brought is found by that tenant
alone; only blocks that lie wholly in a template of ours are named without an owner. SHA-256, since names must not be made up.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from worker.engine.sequence import Row


class Chain:
    """The names of one row's blocks, made as they are asked for."""

    def __init__(self, row: Row, block: int) -> None:
        request = row.group.request
        self._row = row
        self._block = block
        self._shared = min(request.shared_tokens, len(request.prompt)) // block
        self._private = request.reuse_scope is not None
        self._scope = hashlib.sha256((request.reuse_scope or "").encode("utf-8", "surrogatepass")).digest()
        self._names: list[bytes] = []
        self._root = hashlib.sha256((request.adapter or "").encode("utf-8", "surrogatepass")).digest()

    def length(self, tokens: int) -> int:
        """How many of the row's first ``tokens`` may be reused, in whole blocks."""
        whole = tokens // self._block
        return whole if self._private else min(whole, self._shared)

    def name(self, at: int) -> bytes:
        """Of block ``at``; its tokens must be known."""
        while len(self._names) <= at:
            index = len(self._names)
            parent = self._names[-1] if self._names else self._root
            owner = b"" if index < self._shared else self._scope
            tokens = array("I", self._row.tokens(index * self._block, (index + 1) * self._block))
            self._names.append(hashlib.sha256(parent + owner + tokens.tobytes()).digest())
        return self._names[at]

    def names(self, count: int) -> list[bytes]:
        """Of the first ``count`` blocks."""
        if count:
            self.name(count - 1)
        return self._names[:count]


class PrefixIndex:
    """``places``: how many blocks there is room for. The least recently used go first, and of a chain its last ones: a parent
    is always more recent than its children, since whoever uses a block uses all before it."""

    def __init__(self, places: int) -> None:
        self._room = places
        self._places: OrderedDict[bytes, int] = OrderedDict()
        self._free: list[int] = list(range(places - 1, -1, -1))

    def __len__(self) -> int:
        return len(self._places)

    def find(self, chain: Chain, count: int) -> list[int]:
        """The places of the longest run of the chain's first ``count`` blocks that is there, used now."""
        places: list[int] = []
        while len(places) < count and (place := self._places.get(chain.name(len(places)))) is not None:
            places.append(place)
        self._use(chain.names(len(places)))
        return places

    def make_room(self, chain: Chain, known: int, count: int) -> list[int]:
        """Places for the chain's blocks ``known``..``count``-1, as many as there can be: who was in them is forgotten.
        ``known``: as many as ``find`` has just found."""
        own = set(chain.names(known))
        places: list[int] = []
        while len(places) < count - known:
            if self._free:
                places.append(self._free.pop())
                continue
            oldest = next(iter(self._places), None)
            if oldest is None or oldest in own:
                break
            places.append(self._places.pop(oldest))
        return places

    def add(self, chain: Chain, known: int, places: Sequence[int]) -> None:
        """The chain's blocks from ``known`` on are in ``places`` now."""
        names = chain.names(known + len(places))
        self._places.update(zip(names[known:], places, strict=True))
        self._use(names)

    def give_back(self, places: Sequence[int]) -> None:
        """They were not filled after all."""
        self._free += places

    def clear(self) -> None:
        self._places.clear()
        self._free = list(range(self._room - 1, -1, -1))

    def _use(self, names: Iterable[bytes]) -> None:
        for name in reversed([*names]):
            self._places.move_to_end(name)
