"""Keys in memory, for tests."""

from __future__ import annotations

import threading
import time

from shared.errors import NotFoundError
from shared.keys.protocol import ApiKey, NewKey, digest, make, with_new_secret


class MemoryKeyStore:
    """A ``KeyStore`` within one process. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keys: dict[str, ApiKey] = {}

    def create(self, new: NewKey) -> tuple[ApiKey, str]:
        key, secret = make(new, int(time.time() * 1000))
        with self._lock:
            self._keys[key.id] = key
        return key, secret

    def find(self, secret: str) -> ApiKey | None:
        wanted = digest(secret)
        with self._lock:
            return next((key for key in self._keys.values() if key.digest == wanted), None)

    def exists(self, key_digest: str) -> bool:
        """Whether a key of this digest is valid: what MemoryStore asks."""
        with self._lock:
            return any(key.digest == key_digest for key in self._keys.values())

    def list_keys(self) -> tuple[ApiKey, ...]:
        with self._lock:
            return tuple(sorted(self._keys.values(), key=lambda key: key.created_at))

    def revoke(self, key_id: str) -> None:
        with self._lock:
            if self._keys.pop(key_id, None) is None:
                raise NotFoundError("No such key.")

    def rotate(self, key_id: str) -> tuple[ApiKey, str]:
        with self._lock:
            if key_id not in self._keys:
                raise NotFoundError("No such key.")
            self._keys[key_id], secret = with_new_secret(self._keys[key_id])
            return self._keys[key_id], secret
