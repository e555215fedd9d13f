"""Full pages of prompts and answers that were computed before: rows that begin with the same tokens hold them too.

Nothing is copied and nothing set aside: a page stays after its rows have left until the pool is short of pages, and the least
recently used go first.
"""

from __future__ import annotations

from collections import OrderedDict

from worker.engine.pages import PagePool
from worker.engine.prefix_index import Chain
from worker.engine.sequence import Row


class PrefixPages:
    """What rows of one pool may reuse. Everything here is called on the engine's thread."""

    def __init__(self, pool: PagePool) -> None:
        self._pool = pool
        self._pages: OrderedDict[bytes, int] = (
            OrderedDict()
        )  # by the names of their tokens, the least recently used first
        self._names: dict[int, bytes] = {}
        self._chains: dict[Row, Chain] = {}
        self.queries = self.hits = 0
        pool.spare = self._make_room

    def __len__(self) -> int:
        return len(self._pages)

    def find(self, row: Row) -> list[int]:
        """The pages of the row's first tokens that are there, held for it now; never all of it, since its last token has to be
        computed."""
        chain = self._chain(row)
        most = chain.length(row.length - 1)
        found: list[int] = []
        while len(found) < most and (page := self._pages.get(chain.name(len(found)))) is not None:
            found.append(page)
        self._use(chain, len(found))
        self._pool.share(found)
        if most and not row.output:
            self.queries += len(row.prompt)
            self.hits += len(found) * self._pool.page_size
        return found

    def keep(self, row: Row, held: list[int], tokens: int) -> None:
        """The row's first ``tokens`` are in its pages ``held``, and sound: those that may be reused stay."""
        chain = self._chain(row)
        count = chain.length(tokens)
        for name, page in zip(chain.names(count), held, strict=False):
            if name not in self._pages and page not in self._names:
                self._pages[name], self._names[page] = page, name
                self._pool.share([page])
        self._use(chain, count)

    def distrust(self, held: list[int]) -> None:
        """Something in these pages may be wrong: nobody else is to have them."""
        self._drop([page for page in held if page in self._names])

    def forget(self, row: Row) -> None:
        """It will not come back. What was kept of it stays."""
        self._chains.pop(row, None)

    def clear(self) -> None:
        self._drop(list(self._names))

    def _make_room(self, pages: int) -> None:
        """Give back so many that no row holds, or all of them."""
        unused = (page for page in self._pages.values() if self._pool.holders(page) == 1)
        self._drop([page for page, _ in zip(unused, range(pages), strict=False)])

    def _drop(self, pages: list[int]) -> None:
        for page in pages:
            del self._pages[self._names.pop(page)]
        self._pool.give_back(list(pages))

    def _use(self, chain: Chain, count: int) -> None:
        """A page is used after those that follow it, so that of a text its end goes first."""
        for name in reversed(chain.names(count)):
            if name in self._pages:
                self._pages.move_to_end(name)

    def _chain(self, row: Row) -> Chain:
        chain = self._chains.get(row)
        if chain is None:
            chain = self._chains[row] = Chain(row, self._pool.page_size)
        return chain
