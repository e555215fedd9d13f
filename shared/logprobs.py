"""Log-probabilities of tokens as jobs keep them: packed, since the plain ones of a job can be larger than all else of it.

480 tokens with 20 alternatives at each place are 528 KB as clients see them and 77 KB packed (`python -m benchmarks.logprobs`):
texts once, numbers in columns, zlib, and base 85 to fit into JSON.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

LEAST_LOGPROB = -9999.0
"""What stands for minus infinity, which JSON does not know (OpenAI's own convention)."""
DECIMALS = 5


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token, its text alone (half characters are marks), and the natural logarithm of its probability; None where the model
    says none: of the first token of a prompt."""

    token: int
    text: str
    logprob: float | None


@dataclass(frozen=True, slots=True)
class Place:
    """What stands at a place of a text, and the most probable tokens there, the best first."""

    chosen: TokenLogprob
    best: tuple[TokenLogprob, ...] = ()


def rounded(logprob: float | None) -> float | None:
    """As it is kept: five decimals, and never less than LEAST_LOGPROB."""
    return None if logprob is None else max(LEAST_LOGPROB, round(logprob, DECIMALS))


def columns(places: Sequence[Place]) -> list[Any]:
    """Places as JSON-ready columns: ids of all tokens in order (of each place the chosen one, then the best), how many there are
    at each place, logarithms, and the text of each id once."""
    tokens = [token for place in places for token in (place.chosen, *place.best)]
    texts = {token.token: token.text for token in tokens}
    return [
        [token.token for token in tokens],
        [1 + len(place.best) for place in places],
        [rounded(token.logprob) for token in tokens],
        [[token, text] for token, text in texts.items()],
    ]


def of_columns(data: Sequence[Any]) -> tuple[Place, ...]:
    """The inverse of ``columns``."""
    ids, sizes, logprobs, pairs = data
    texts = dict(pairs)
    tokens = iter([TokenLogprob(each, texts[each], logprob) for each, logprob in zip(ids, logprobs, strict=True)])
    return tuple(_place(tokens, size) for size in sizes)


def _place(tokens: Iterator[TokenLogprob], size: int) -> Place:
    chosen, *best = (next(tokens) for _ in range(size))
    return Place(chosen, tuple(best))


def pack(places: Sequence[Place]) -> str:
    """Places as ASCII text."""
    text = json.dumps(columns(places), ensure_ascii=False, separators=(",", ":"))
    return base64.b85encode(zlib.compress(text.encode("utf-8", "surrogatepass"))).decode()


def unpack(packed: str) -> tuple[Place, ...]:
    """The inverse of ``pack``."""
    return of_columns(json.loads(zlib.decompress(base64.b85decode(packed)).decode("utf-8", "surrogatepass")))
