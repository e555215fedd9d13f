"""Who holds how much of the memory for keys and values: tokens, in pages.

What is counted here is memory that is really there. Where it lies is the runner's matter: in slots whose pages the system
maps as they are written (a CPU), or in blocks of pages (Kwon et al., "Efficient Memory Management for Large Language Model
Serving with PagedAttention", SOSP 2023).
"""

from __future__ import annotations

from shared.errors import ContextLengthError
from worker.engine.protocol import EngineInfo, EngineRequest
from worker.engine.sequence import Row


class Ledger:
    """The pages of one engine. ``tokens``: that fit in all. ``page``: tokens in one page; a row holds whole pages."""

    def __init__(self, tokens: int, page: int) -> None:
        self.page = page
        self.total = self.free = tokens // page

    def pages(self, tokens: int) -> int:
        """Pages that so many tokens of one row need."""
        return -(-tokens // self.page)

    def take(self, row: Row, tokens: int) -> bool:
        """Let ``row`` hold at least ``tokens``. False, and nothing has changed, where the free pages are too few."""
        more = self.pages(tokens) - row.pages
        if more > self.free:
            return False
        if more > 0:
            self.free -= more
            row.pages += more
        return True

    def give_back(self, row: Row) -> None:
        """All that the row holds."""
        self.free += row.pages
        row.pages = 0

    def usage(self) -> float:
        """Share that is held, 0 to 1."""
        return 1.0 - self.free / self.total if self.total else 0.0

    def check(self, request: EngineRequest) -> None:
        """Raises: ContextLengthError for a request that this memory could never bring to its end, even alone."""
        most = len(request.prompt) + request.sampling.max_tokens - 1  # the last token is never read again
        if request.sampling.n * self.pages(most) > self.total:
            raise ContextLengthError(
                f"{request.sampling.n} completions of {len(request.prompt)} + {request.sampling.max_tokens} tokens each "
                f"are more than the {self.total * self.page} tokens that fit in memory. Ask for fewer, or shorter ones.",
                param="n",
            )


def ledger_for(info: EngineInfo) -> Ledger:
    """The ledger of an engine that has just started; one that does not say how much fits has room for every slot."""
    tokens = info.slots * info.context_length if info.kv_tokens is None else info.kv_tokens
    return Ledger(tokens, info.kv_page)
