"""The headers that tell a client its request limit: OpenAI's names, and the IETF draft's (draft-ietf-httpapi-ratelimit)."""

from __future__ import annotations

from shared.errors import RateLimitedError
from shared.store.protocol import RateState

WINDOW_S = 60


def rate_headers(state: RateState | None) -> dict[str, str]:
    """Headers of a window after it was charged; none where none was (a replay)."""
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
