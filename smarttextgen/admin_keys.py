"""API keys, for holders of a key with the scope ``admin``."""

from __future__ import annotations

from collections.abc import Sequence

from smarttextgen.decode import decode
from smarttextgen.transport import Transport
from smarttextgen.types import ApiKey
from smarttextgen.wire import page_of, segment, walk

PATH = "/api/admin/keys"


class AdminKeys:
    """``client.keys``. Every method raises PermissionDeniedError for a key without the scope ``admin``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self,
        tenant: str,
        name: str,
        *,
        scopes: Sequence[str] = ("generate",),
        weight: int | None = None,
        requests_per_minute: int | None = None,
        tokens_per_day: int | None = None,
        max_queued: int | None = None,
    ) -> ApiKey:
        """Make a key; ``key`` of the answer is shown this once."""
        limits = {
            "weight": weight,
            "requests_per_minute": requests_per_minute,
            "tokens_per_day": tokens_per_day,
            "max_queued": max_queued,
        }
        given = {limit: value for limit, value in limits.items() if value is not None}
        body = {"tenant": tenant, "name": name, "scopes": list(scopes), **given}
        return decode(ApiKey, self._transport.request("POST", PATH, json=body, repeatable=False).json())

    def list(self) -> tuple[ApiKey, ...]:
        """All keys, without the keys themselves."""
        return tuple(
            walk(lambda cursor: page_of(ApiKey, self._transport.request("GET", PATH, params={"cursor": cursor}).json()))
        )

    def revoke(self, key_id: str) -> None:
        """End a key at once. Raises: NotFoundError."""
        self._transport.request("DELETE", f"{PATH}/{segment(key_id)}")

    def rotate(self, key_id: str) -> ApiKey:
        """Give a key another secret; the answer shows it this once. Raises: NotFoundError."""
        path = f"{PATH}/{segment(key_id)}/rotate"
        return decode(ApiKey, self._transport.request("POST", path, repeatable=False).json())
