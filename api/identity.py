"""Who is calling: API keys, a short memory of them, and the check before every route that needs one."""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

import structlog
from flask import Flask, g, request

from shared.errors import AuthenticationError, ScopeError
from shared.keys import ApiKey, KeyStore, digest

UNKNOWN_TTL_S = 1.0
LONGEST_SECRET = 256

_BEARER = re.compile(r"Bearer +(\S+) *", re.IGNORECASE)


class KeyMemory:
    """Remembers looked-up keys for some seconds, by the digest of their secret: no secret stays in memory.

    Unknown ones are remembered too, shorter and apart, so that guesses cannot push real keys out. An outage is not
    remembered: StoreUnavailableError passes through, and never becomes a 401.
    """

    def __init__(
        self, keys: KeyStore, ttl_s: float, *, size: int = 4096, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._keys = keys
        self._ttl_s = ttl_s
        self._size = size
        self._clock = clock
        self._lock = threading.Lock()
        self._known: OrderedDict[str, tuple[float, ApiKey]] = OrderedDict()
        self._unknown: OrderedDict[str, tuple[float, None]] = OrderedDict()

    def find(self, secret: str) -> ApiKey | None:
        """The key of a secret, or None. Raises: StoreUnavailableError."""
        name = digest(secret)
        now = self._clock()
        with self._lock:
            for memory in (self._known, self._unknown):
                found = memory.get(name)
                if found is not None and found[0] > now:
                    return found[1]
        key = self._keys.find(secret)
        if self._ttl_s > 0:
            self._remember(name, key, now)
        return key

    def _remember(self, name: str, key: ApiKey | None, now: float) -> None:
        with self._lock:
            self._known.pop(name, None)
            self._unknown.pop(name, None)
            if key is None:
                self._unknown[name] = (now + min(self._ttl_s, UNKNOWN_TTL_S), None)
            else:
                self._known[name] = (now + self._ttl_s, key)
            for memory in (self._known, self._unknown):
                while len(memory) > self._size:
                    memory.popitem(last=False)

    def forget(self, key_id: str) -> None:
        """A key was revoked or rotated: this process knows it at once, others within their memory's time."""
        with self._lock:
            for name in [name for name, (_, key) in self._known.items() if key.id == key_id]:
                del self._known[name]


def secret_of_request() -> str | None:
    """The secret in ``X-API-Key``, else in ``Authorization: Bearer``."""
    given = request.headers.get("X-API-Key")
    if given is not None:
        return given.strip()
    match = _BEARER.fullmatch(request.headers.get("Authorization", ""))
    return match[1] if match else None


def authenticate(memory: KeyMemory, scope: str | None) -> ApiKey:
    """The caller's key. ``scope``: what it must be allowed; None is anything.

    Raises: AuthenticationError, ScopeError, StoreUnavailableError.
    """
    secret = secret_of_request()
    if not secret:
        raise AuthenticationError("An API key is required: X-API-Key, or Authorization: Bearer.")
    key = memory.find(secret) if len(secret) <= LONGEST_SECRET else None
    if key is None:
        raise AuthenticationError("This API key is not valid.")
    if scope is not None and scope not in key.scopes:
        raise ScopeError(f"This API key does not have the scope {scope}.")
    return key


def caller() -> ApiKey:
    """The key of the request that is being handled; only on routes that need one."""
    key: ApiKey = g.caller
    return key


def register_identity(app: Flask, memory: KeyMemory, scopes: dict[str, str | None]) -> None:
    """Check the key before each route in ``scopes`` (endpoint → scope), and before anything of its input is read."""

    def check() -> None:
        if request.endpoint in scopes and request.method != "OPTIONS":
            g.caller = authenticate(memory, scopes[request.endpoint])
            structlog.contextvars.bind_contextvars(tenant=g.caller.tenant, key_id=g.caller.id)

    app.before_request(check)
