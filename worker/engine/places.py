"""What the model thought at a place of the text: first as numbers, then with the tokens' texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from worker.engine.protocol import Place, TokenLogprob

TokenText = Callable[[int], str]


@dataclass(frozen=True, slots=True)
class Chances:
    """The token of a place, the natural logarithm of its probability, and the most probable tokens with theirs, the best first."""

    token: int
    logprob: float
    best: tuple[tuple[int, float], ...]

    def place(self, text: TokenText) -> Place:
        best = tuple(TokenLogprob(token, text(token), logprob) for token, logprob in self.best)
        return Place(TokenLogprob(self.token, text(self.token), self.logprob), best)
