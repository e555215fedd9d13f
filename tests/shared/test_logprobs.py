"""Log-probabilities come back as they were kept, and take little room."""

from __future__ import annotations

import json
import random

from hypothesis import given
from hypothesis import strategies as st

from shared.logprobs import LEAST_LOGPROB, Place, TokenLogprob, columns, of_columns, pack, rounded, unpack

ids = st.integers(0, 200_000)
logprobs = (st.none() | st.floats(-50, 0)).map(rounded)


def _token(token: int, logprob: float | None) -> TokenLogprob:
    return TokenLogprob(token, f"t{token}\x00\ud83d", logprob)  # a text of its own, with all that a text may hold


tokens = st.builds(_token, ids, logprobs)
places = st.lists(st.builds(Place, tokens, st.lists(tokens, max_size=4).map(tuple)), max_size=6).map(tuple)


@given(places)
def test_what_is_packed_comes_back(given_places: tuple[Place, ...]):
    assert unpack(pack(given_places)) == given_places
    assert of_columns(json.loads(json.dumps(columns(given_places)))) == given_places
    assert pack(given_places).isascii()


def test_no_infinity_is_kept():
    assert rounded(float("-inf")) == LEAST_LOGPROB
    assert rounded(-1.23456789) == -1.23457
    assert rounded(None) is None


def test_the_most_that_a_completion_can_have_takes_little_room():
    """500 tokens with 20 alternatives each, of a distribution that nothing makes regular."""
    dice = random.Random(1)
    words = [f" w{number}" for number in range(50_000)]

    def token() -> TokenLogprob:
        number = min(int(dice.expovariate(0.001)), 49_999)
        return TokenLogprob(number, words[number], rounded(-dice.expovariate(0.2)))

    found = [Place(token(), tuple(token() for _ in range(20))) for _ in range(500)]
    assert len(pack(found)) < 100_000
