"""Who holds which page of the memory for keys and values (Kwon et al., "Efficient Memory Management for Large Language Model
Serving with PagedAttention", 2023). Plain numbers, no tensors.

A page holds the keys and values of ``page_size`` tokens in a row, of all layers. A sequence holds a list of pages; full pages may
belong to several sequences, and each is free again when the last of them has let go. Page 0 belongs to nobody: what must be
written somewhere and is never read goes there.
"""

from __future__ import annotations

from collections.abc import Callable

from shared.errors import GenerationError

SCRATCH = 0


class PagePool:
    """``pages`` in all, page 0 among them."""

    def __init__(self, pages: int, page_size: int) -> None:
        self.page_size = page_size
        self.pages = pages
        self._free = list(range(pages - 1, SCRATCH, -1))  # the lowest number is given out first
        self._holders = [0] * pages
        self.spare: Callable[[int], None] | None = None
        """Asked to give back so many pages when there are too few."""

    @property
    def free(self) -> int:
        return len(self._free)

    def holders(self, page: int) -> int:
        return self._holders[page]

    def pages_for(self, tokens: int) -> int:
        return -(-tokens // self.page_size)

    def grow(self, held: list[int], tokens: int) -> list[int]:
        """Lengthen ``held`` until it has room for ``tokens``; returns the pages that were added.

        Raises: GenerationError when there are not so many; nothing has changed then.
        """
        missing = self.pages_for(tokens) - len(held)
        if missing > len(self._free) and self.spare is not None:
            self.spare(missing - len(self._free))
        if missing > len(self._free):
            raise GenerationError("The device has no memory left for this text's keys and values.")
        added = [self._free.pop() for _ in range(missing)]
        for page in added:
            self._holders[page] = 1
        held += added
        return added

    def share(self, pages: list[int]) -> None:
        """One more holder for each."""
        for page in pages:
            self._holders[page] += 1

    def give_back(self, held: list[int]) -> None:
        """Let go of all of them, the last first; ``held`` is empty then."""
        while held:
            page = held.pop()
            self._holders[page] -= 1
            if not self._holders[page]:
                self._free.append(page)
