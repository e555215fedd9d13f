"""What the parts say about themselves over HTTP."""

from __future__ import annotations

from typing import Any

import httpx

PROBE_TIMEOUT_S = 2.0


class Probes:
    """Asks a stack's own addresses. Every method answers False instead of raising: not ready yet."""

    def __init__(self) -> None:
        # No proxy stands between us and 127.0.0.1; no kept connection holds up the API's end.
        self._http = httpx.Client(
            trust_env=False, timeout=PROBE_TIMEOUT_S, limits=httpx.Limits(max_keepalive_connections=0)
        )

    def ok(self, url: str) -> bool:
        """Whether ``url`` answers 200."""
        try:
            return self._http.get(url).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def ready_workers(self, api_url: str) -> int:
        """How many ready workers the API's /health counts."""
        return count_workers(self._health(api_url))

    def couriers(self, api_url: str) -> int:
        """How many couriers the API's /health counts."""
        health = self._health(api_url)
        found = health.get("couriers") if isinstance(health, dict) else 0
        return found if isinstance(found, int) else 0

    def _health(self, api_url: str) -> Any:
        """Its body; None where it has none."""
        try:
            answer = self._http.get(f"{api_url}/health")
            return answer.json() if answer.status_code == httpx.codes.OK else None
        except (httpx.HTTPError, ValueError):
            return None

    def accepts_key(self, url: str, key: str) -> bool | None:
        """Whether a route takes this key; None when it does not answer so that one could tell."""
        try:
            status = self._http.get(url, headers={"X-API-Key": key}).status_code
        except httpx.HTTPError:
            return None
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            return False
        return True if status < 500 else None

    def close(self) -> None:
        self._http.close()


def count_workers(health: Any) -> int:
    """Ready workers in the body of /health, where ``workers`` is a count or a list."""
    if not isinstance(health, dict):
        return 0
    workers = health.get("workers", 0)
    if isinstance(workers, list):
        return sum(1 for each in workers if not isinstance(each, dict) or each.get("state", "ready") == "ready")
    return workers if isinstance(workers, int) else 0
