"""What the engine says of tokens, as jobs keep it."""

from __future__ import annotations

from shared.logprobs import Place, TokenLogprob, rounded
from worker.engine import protocol


def place_of(place: protocol.Place) -> Place:
    """A place of a text, with its numbers rounded."""
    return Place(_token(place.chosen), tuple(_token(each) for each in place.best))


def _token(token: protocol.TokenLogprob) -> TokenLogprob:
    return TokenLogprob(token.token, token.text, rounded(token.logprob))
