"""Sweeping: lists forget what Redis let expire."""

from __future__ import annotations

import pytest

from shared.job import JobRef
from shared.store.redis import RedisStore
from tests.store.conftest import Driver


def _round(store: RedisStore, most: int) -> tuple[int, int]:
    """A whole round: its steps, and what was taken out."""
    point, steps, gone = None, 0, 0
    while True:
        point, count = store.sweep(point, most)
        steps, gone = steps + 1, gone + count
        if point is None:
            return steps, gone


def _expire(store: RedisStore, *refs: JobRef) -> None:
    for ref in refs:
        store._client.delete(f"{store._prefix}job:{ref}")


def _listed(store: RedisStore, tenant: str) -> list[str]:
    return store._client.zrange(f"{store._prefix}jobs:{tenant}", 0, -1)


@pytest.mark.parametrize("most", [1, 2, 3, 100])
def test_what_is_gone_leaves_the_lists(store: RedisStore, drive: Driver, most: int) -> None:
    kept = {tenant: [drive.ref(tenant=tenant) for _ in range(3)] for tenant in ("a", "shop", "z")}
    gone = [drive.finished(tenant=tenant) for tenant in ("a", "shop", "shop", "z") for _ in range(2)]
    _expire(store, *gone)
    steps, count = _round(store, most)
    assert count == len(gone)
    assert steps >= 17 / most
    assert {tenant: _listed(store, tenant) for tenant in kept} == {
        t: [ref.id for ref in refs] for t, refs in kept.items()
    }
    assert _round(store, most)[1] == 0


def test_a_tenant_without_jobs_is_forgotten_until_it_comes_back(store: RedisStore, drive: Driver) -> None:
    _expire(store, drive.finished())
    _round(store, 10)
    _round(store, 10)
    assert store._client.smembers(f"{store._prefix}tenants") == set()
    _expire(store, drive.finished())
    assert _round(store, 10)[1] == 1


def test_dead_letters_whose_record_is_gone_too(store: RedisStore, drive: Driver) -> None:
    kept = drive.ref()
    for number, ref in enumerate((kept, JobRef("shop", "gone"))):
        store._client.zadd(f"{store._prefix}dead", {str(ref): number})
    assert _round(store, 10)[1] == 1
    assert store._client.zrange(f"{store._prefix}dead", 0, -1) == [str(kept)]
