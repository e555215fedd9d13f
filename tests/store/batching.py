"""Batches for tests: small chunks and steps, so that few jobs take many, and a hand on the reconciler's clock."""

from __future__ import annotations

import itertools
import re

import pytest

from shared.job import JobRef, JobSpec
from shared.store import redis_batches, scripts
from shared.store.batches import BatchReceipt, BatchResult, NewBatch
from shared.store.protocol import Hint, NewJob, Patience, Reconciled, Submission
from shared.store.redis import RedisStore

STEPS = re.compile(r"local ENROLL, CANCEL, REMOVE = \d+, \d+, \d+")
_ids = itertools.count(1)


def make_small(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Chunks, steps and reads of so many jobs, in stores that are made from now on."""
    whole = scripts.library_of

    def smaller(shelf: scripts.Shelf) -> str:
        text, count = STEPS.subn(f"local ENROLL, CANCEL, REMOVE = {size}, {size}, {size}", whole(shelf))
        assert count == 1
        return text

    monkeypatch.setattr(scripts, "library_of", smaller)
    monkeypatch.setattr(redis_batches, "CHUNK", size)
    monkeypatch.setattr(redis_batches, "READ", size)


class CrashError(Exception):
    """The API died."""


class Batches:
    """Says in a word what a test wants of batches."""

    def __init__(self, store: RedisStore) -> None:
        self.store = store
        self.client, self.prefix = store._client, store._prefix

    def submission(self, count: int, *, tenant: str = "shop", key_id: str = "key_1", **more) -> Submission:
        fields = {name: more.pop(name) for name in list(more) if name in JobSpec.__dataclass_fields__}
        number = next(_ids)
        jobs = tuple(
            NewJob(f"b{number}-{at}", JobSpec(f"prompt {at}", "general", "demo", **fields), f"row-{at}")
            for at in range(count)
        )
        return Submission(tenant, key_id, jobs, **more)

    def admit(self, count: int = 5, batch_id: str = "b1", **more) -> tuple[BatchReceipt, list[JobRef]]:
        """Accepted, not yet in line beyond its first step."""
        submission = self.submission(count, **more)
        receipt = self.store.submit_batch(submission, NewBatch(batch_id))
        return receipt, [JobRef(submission.tenant, new.id) for new in submission.jobs]

    def submit(self, count: int = 5, batch_id: str = "b1", **more) -> list[JobRef]:
        """Accepted and all in line."""
        _, refs = self.admit(count, batch_id, **more)
        self.finish_steps(batch_id, tenant=refs[0].tenant)
        return refs

    def finish_steps(self, batch_id: str = "b1", *, tenant: str = "shop") -> list[Hint]:
        hints: list[Hint] = []
        more = True
        while more:
            more, found = self.store.step_batch(tenant, batch_id)
            hints += found
        return hints

    def crash_after(self, calls: int, submission: Submission, batch_id: str = "b1") -> None:
        """Submit, and die after so many calls."""
        run = self.store._scripts.run
        left = itertools.count(calls, -1)

        def dying(*args):
            if next(left) <= 0:
                raise CrashError
            return run(*args)

        self.store._scripts.run = dying  # type: ignore[method-assign]
        try:
            with pytest.raises(CrashError):
                self.store.submit_batch(submission, NewBatch(batch_id))
        finally:
            self.store._scripts.run = run  # type: ignore[method-assign]

    def due(self, batch_id: str = "b1", *, tenant: str = "shop") -> float | None:
        """When the reconciler looks at it."""
        found = self.client.zscore(f"{self.prefix}batches_due", f"{tenant}:{batch_id}")
        return None if found is None else float(found)

    def make_due(self, batch_id: str = "b1", *, tenant: str = "shop") -> None:
        """Its time has come."""
        self.client.zadd(f"{self.prefix}batches_due", {f"{tenant}:{batch_id}": 1}, xx=True)

    def reconcile(self, batch_id: str = "b1", *, tenant: str = "shop") -> Reconciled:
        self.make_due(batch_id, tenant=tenant)
        return self.store.reconcile(Patience(1000, 1000, 4, pause_s=0))

    def counts(self, batch_id: str = "b1", *, tenant: str = "shop") -> dict[str, int]:
        """Those that are not 0."""
        batch = self.store.get_batch(tenant, batch_id)
        assert sum(batch.counts.values()) == batch.total
        return {status.value: count for status, count in batch.counts.items() if count}

    def results(self, batch_id: str = "b1", after: int = 0, *, tenant: str = "shop") -> list[BatchResult]:
        """All of them, read in pages."""
        rows: list[BatchResult] = []
        while True:
            page = self.store.batch_results(tenant, batch_id, after, 1000)
            rows += page.rows
            if not page.rows:
                assert page.last == after
                return rows
            after = page.rows[-1].place

    def keys(self) -> set[str]:
        """Every key but those of workers and statistics."""
        names = {key.removeprefix(self.prefix) for key in self.client.scan_iter(self._pattern())}
        idle = {"workers", "models", "capacity", "heard_at", "queues", "seq", "stats", "reconciled", "hold_until"}
        return {name for name in names if name not in idle and not name.startswith(("worker:", "served:", "depth:"))}

    def _pattern(self) -> str:
        return f"[{self.prefix[0]}]{self.prefix[1:]}*"
