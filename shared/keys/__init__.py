"""API keys: made once, shown once, stored as a digest. ``python -m shared.keys`` makes the first one."""

from shared.keys.protocol import SCOPES, ApiKey, KeyStore, NewKey, digest, new_secret
from shared.keys.redis import RedisKeyStore

__all__ = ["SCOPES", "ApiKey", "KeyStore", "NewKey", "RedisKeyStore", "digest", "new_secret"]
