"""API keys: made once, shown once, stored as a digest."""

from __future__ import annotations

import hashlib
import secrets
import uuid
from dataclasses import dataclass, replace
from typing import Protocol

PREFIX_LENGTH = 10
"""Characters of a secret that are kept in clear, to recognise it by: six of 43 random ones."""

SCOPES = ("generate", "admin")
"""``generate``: the tenant's own jobs, batches and histories. ``admin``: keys, and what an operator sees."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of a key. ``prefix`` is the start of the secret, enough to recognise it by. ``digest`` is SHA-256
    of the secret, hex; a key holds 256 random bits, so a slow hash would add nothing (NIST SP 800-63B, section 5.1.1.2
    asks for one where people choose the secret)."""

    id: str
    tenant: str
    name: str
    scopes: frozenset[str]
    prefix: str
    digest: str
    created_at: int
    weight: int = 1
    requests_per_minute: int | None = None
    tokens_per_day: int | None = None
    max_queued: int | None = None


@dataclass(frozen=True, slots=True)
class NewKey:
    """What to make. ``tenant``: 1–64 of ``a-z 0-9 _ -``. Limits of None follow the settings' defaults."""

    tenant: str
    name: str = ""
    scopes: frozenset[str] = frozenset({"generate"})
    weight: int = 1
    requests_per_minute: int | None = None
    tokens_per_day: int | None = None
    max_queued: int | None = None


def new_secret() -> str:
    """A fresh secret: ``stg_`` and 43 URL-safe characters (256 bits from the system's generator)."""
    return "stg_" + secrets.token_urlsafe(32)


def digest(secret: str) -> str:
    """SHA-256 of a secret, hex: what is stored and looked up."""
    return hashlib.sha256(secret.encode()).hexdigest()


def make(new: NewKey, created_at: int) -> tuple[ApiKey, str]:
    """A key and its secret. created_at: milliseconds since the epoch."""
    secret = new_secret()
    key = ApiKey(
        id=f"key_{uuid.uuid4().hex}",
        tenant=new.tenant,
        name=new.name,
        scopes=new.scopes,
        prefix=secret[:PREFIX_LENGTH],
        digest=digest(secret),
        created_at=created_at,
        weight=new.weight,
        requests_per_minute=new.requests_per_minute,
        tokens_per_day=new.tokens_per_day,
        max_queued=new.max_queued,
    )
    return key, secret


def with_new_secret(key: ApiKey) -> tuple[ApiKey, str]:
    """The same key under another secret."""
    secret = new_secret()
    return replace(key, prefix=secret[:PREFIX_LENGTH], digest=digest(secret)), secret


class KeyStore(Protocol):
    """Keeps keys. Every method may raise StoreUnavailableError."""

    def create(self, new: NewKey) -> tuple[ApiKey, str]:
        """Make a key; the secret is returned here and nowhere else, ever."""
        ...

    def find(self, secret: str) -> ApiKey | None:
        """The key of a secret; None for an unknown or revoked one. The look-up is by digest, so its timing says
        nothing of a stored secret."""
        ...

    def list_keys(self) -> tuple[ApiKey, ...]:
        """All keys, oldest first."""
        ...

    def revoke(self, key_id: str) -> None:
        """Raises: NotFoundError."""
        ...

    def rotate(self, key_id: str) -> tuple[ApiKey, str]:
        """A new secret under the same id; the old one stops at once. Raises: NotFoundError."""
        ...
