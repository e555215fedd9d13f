"""Keys in Redis: ``key:DIGEST`` holds the key, ``keys`` maps its id to the digest. The secret is nowhere."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import redis

from shared.errors import NotFoundError
from shared.keys.protocol import ApiKey, NewKey, digest, make, with_new_secret
from shared.store.connection import Client
from shared.store.scripts import guarded


class RedisKeyStore:
    """The real ``KeyStore``. Thread-safe."""

    def __init__(self, client: Client, prefix: str) -> None:
        self._client = client
        self._prefix = prefix
        self._index = f"{prefix}keys"

    def create(self, new: NewKey) -> tuple[ApiKey, str]:
        seconds, micros = guarded(self._client.time)
        key, secret = make(new, int(seconds) * 1000 + int(micros) // 1000)
        pipeline = self._client.pipeline(transaction=True)
        pipeline.set(self._key(key.digest), _to_json(key))
        pipeline.hset(self._index, key.id, key.digest)
        guarded(pipeline.execute)
        return key, secret

    def find(self, secret: str) -> ApiKey | None:
        text = guarded(lambda: self._client.get(self._key(digest(secret))))
        return _from_json(text) if text else None

    def list_keys(self) -> tuple[ApiKey, ...]:
        digests = guarded(lambda: self._client.hvals(self._index))
        if not digests:
            return ()
        texts = guarded(lambda: self._client.mget([self._key(item) for item in digests]))
        return tuple(sorted((_from_json(text) for text in texts if text), key=lambda key: key.created_at))

    def revoke(self, key_id: str) -> None:
        def steps(pipeline: redis.client.Pipeline) -> None:
            known = self._known(pipeline, key_id)
            pipeline.multi()
            pipeline.delete(self._key(known.digest))
            pipeline.hdel(self._index, key_id)

        guarded(lambda: self._client.transaction(steps, self._index))

    def rotate(self, key_id: str) -> tuple[ApiKey, str]:
        made: list[tuple[ApiKey, str]] = []

        def steps(pipeline: redis.client.Pipeline) -> None:
            known = self._known(pipeline, key_id)
            key, secret = with_new_secret(known)
            made.append((key, secret))  # the last try is the one that was written
            pipeline.multi()
            pipeline.delete(self._key(known.digest))
            pipeline.set(self._key(key.digest), _to_json(key))
            pipeline.hset(self._index, key_id, key.digest)

        guarded(lambda: self._client.transaction(steps, self._index))
        return made[-1]

    def _known(self, pipeline: redis.client.Pipeline, key_id: str) -> ApiKey:
        # A pipeline that watches runs commands at once, and so returns answers, which its types do not say.
        known: Any = pipeline.hget(self._index, key_id)
        text: Any = pipeline.get(self._key(known)) if known else None
        if not text:
            raise NotFoundError("No such key.")
        return _from_json(text)

    def _key(self, key_digest: str) -> str:
        return f"{self._prefix}key:{key_digest}"


def _to_json(key: ApiKey) -> str:
    return json.dumps(asdict(key) | {"scopes": sorted(key.scopes)})


def _from_json(text: str) -> ApiKey:
    data = json.loads(text)
    return ApiKey(**(data | {"scopes": frozenset(data["scopes"])}))
