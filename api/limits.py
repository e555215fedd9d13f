"""The headers that tell a client its request limit: OpenAI's names, and the IETF draft's (draft-ietf-httpapi-ratelimit)."""

from __future__ import annotations

from shared.errors import RateLimitedError
from shared.store.batches import BatchReceipt
from shared.store.protocol import RateState, Receipt

WINDOW_S = 60


def limit_headers(receipt: Receipt | BatchReceipt) -> dict[str, str]:
    """What a submit left of the key's limits; nothing where nothing was charged (a replay)."""
    return rate_headers(receipt.rate) | token_headers(receipt.tokens)


def token_headers(state: RateState | None) -> dict[str, str]:
    """Headers of the tokens of the day; none for a key without such a limit."""
    if state is None:
        return {}
    return {
        "x-ratelimit-limit-tokens": str(state.limit),
        "x-ratelimit-remaining-tokens": str(state.remaining),
        "x-ratelimit-reset-tokens": f"{state.reset_s}s",
    }


def rate_headers(state: RateState | None) -> dict[str, str]:
    """Headers of a window after it was charged; none where none was."""
    if state is None:
        return {}
    return {
        "x-ratelimit-limit-requests": str(state.limit),
        "x-ratelimit-remaining-requests": str(state.remaining),
        "x-ratelimit-reset-requests": f"{state.reset_s}s",
        "RateLimit": f'"default";r={state.remaining};t={state.reset_s}',
        "RateLimit-Policy": f'"default";q={state.limit};w={WINDOW_S}',
    }


def exceeded_headers(error: RateLimitedError) -> dict[str, str]:
    """The same for a request that found no room. A full queue is no window, and has none."""
    if error.limit is None:
        return {}
    return rate_headers(RateState(error.limit, error.remaining or 0, error.retry_after_s))
