"""Batches for the state machine: admitted in chunks of two, carried on in steps of two."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from shared.errors import BatchAlreadyFinishedError, GoneError, NotFoundError, StoreUnavailableError
from shared.job import JobRef, JobSpec, JobStatus
from shared.store.batches import NewBatch
from shared.store.protocol import Patience, Submission
from shared.store.redis import RedisStore
from tests.store.model import MODELS, MOST_CRASHES, QUEUED, RUNNING, TENANTS, House, Kept, KeptBatch, Snapshot

STEP = 2
LATER = 10**15
nth = st.integers(0, 30)


class BatchRules:
    """The rules; ``StoreMachine`` has the rest."""

    house: House
    store: RedisStore
    numbers: int

    def _batch(self, n: int, *, where=lambda batch: True) -> KeptBatch:
        found = [batch for batch in self.house.batches.values() if where(batch)]
        return found[n % len(found)]

    @rule(
        tenant=st.sampled_from(TENANTS),
        model=st.sampled_from(MODELS),
        user=st.sampled_from([None, "ann"]),
        size=st.integers(1, 5),
        calls=st.integers(1, 5),
        run_s=st.sampled_from([None, 1000]),
    )
    def submit_batch(self, tenant, model, user, size, calls, run_s):
        """The API dies after so many calls; with enough of them it does not."""
        self.numbers += 1
        spec = JobSpec("hello", "general", model, user, 20, execution_timeout_s=run_s, queue_timeout_s=1000)
        ids = [f"of-{self.numbers}-{index}" for index in range(size)]
        submission = self.submission(tenant, ids, spec)
        batch = KeptBatch(tenant, f"b{self.numbers}", submission.key_id, size, list(submission.jobs))
        self.house.batches[batch.id] = batch
        if calls * STEP < size:
            batch.admitting = True
            self._die_after(calls, submission, batch)
            return
        receipt = self.store.submit_batch(submission, NewBatch(batch.id))
        assert (receipt.id, receipt.size, receipt.created) == (batch.id, size, True)
        self._step(batch)
        assert receipt.more is self.house.unfinished(batch)
        self._check_hints(receipt.hints)

    def _die_after(self, calls: int, submission: Submission, batch: KeptBatch) -> None:
        run, left = self.store._scripts.run, itertools.count(calls, -1)

        def dying(*args):
            if next(left) == 0:
                raise StoreUnavailableError
            return run(*args)

        self.store._scripts.run = dying
        with pytest.raises(StoreUnavailableError):
            self.store.submit_batch(submission, NewBatch(batch.id))
        self.store._scripts.run = run
        with pytest.raises(NotFoundError):
            self.store.get_batch(batch.tenant, batch.id)

    @precondition(lambda self: self.house.batches)
    @rule(n=nth)
    def step_batch(self, n):
        batch = self._batch(n)
        more, hints = self.store.step_batch(batch.tenant, batch.id)
        self._step(batch)
        assert more is (batch.id in self.house.batches and self.house.unfinished(batch))
        self._check_hints(hints)

    @precondition(lambda self: self._shown())
    @rule(n=nth, expire=st.booleans())
    def finish_a_batch(self, n, expire):
        """All of it is run and its retention ends: what would rarely come about by itself."""
        batch = self._shown()[n % len(self._shown())]
        self._step_to_the_end(batch)
        self.beat("w2", self.house.alive.get("w2", "demo"), draining=False)
        for job in self.house.of_batch(batch):
            if job.status is QUEUED:
                self._claim(job, "w2")
            if job.status is RUNNING and job.owner == "w2":
                said = next(c for c in reversed(self.house.claims) if c.ref == job.ref)
                self._finish(said, JobStatus.SUCCEEDED, twice=False)
        if expire:
            self.see_to_a_batch(self._number(batch), expire)

    @precondition(lambda self: self._shown())
    @rule(n=nth)
    def cancel_a_batch_twice(self, n):
        """A job of a canceled batch is retried, which opens it again."""
        batch = self._shown()[n % len(self._shown())]
        for _ in range(2):
            self.cancel_batch(self._number(batch))
            self._step_to_the_end(batch)
            canceled = [job for job in self.house.of_batch(batch) if job.status is JobStatus.CANCELED]
            if canceled and self.house.is_done(batch):
                _, hints = self.store.retry(canceled[0].ref)
                self.house.move(canceled[0], QUEUED)
                canceled[0].crashes, canceled[0].output = 0, None
                self._check_hints(hints)

    def _shown(self) -> list[KeptBatch]:
        return [batch for batch in self.house.batches.values() if not batch.admitting and not batch.removing]

    def _number(self, batch: KeptBatch) -> int:
        return list(self.house.batches).index(batch.id)

    def _step_to_the_end(self, batch: KeptBatch) -> None:
        while self.house.unfinished(batch):
            self.step_batch(self._number(batch))

    @precondition(lambda self: self.house.batches)
    @rule(n=nth)
    def cancel_batch(self, n):
        batch = self._batch(n)
        if batch.admitting or batch.removing:
            with pytest.raises(NotFoundError):
                self.store.cancel_batch(batch.tenant, batch.id)
        elif self.house.is_done(batch) and not batch.cancel_requested:
            with pytest.raises(BatchAlreadyFinishedError):
                self.store.cancel_batch(batch.tenant, batch.id)
        else:
            self.store.cancel_batch(batch.tenant, batch.id)
            batch.cancel_requested = True

    @precondition(lambda self: self.house.batches)
    @rule(n=nth)
    def delete_batch(self, n):
        batch = self._batch(n)
        if batch.admitting or batch.removing:
            with pytest.raises(NotFoundError):
                self.store.delete_batch(batch.tenant, batch.id)
            return
        self.store.delete_batch(batch.tenant, batch.id)
        batch.removing = True

    @precondition(lambda self: self.house.batches)
    @rule(n=nth, expire=st.booleans())
    def see_to_a_batch(self, n, expire):
        """Its time has come: the reconciler rolls it back, goes on with it, or ends its retention."""
        batch = self._batch(n)
        done = not batch.admitting and not batch.removing and self.house.is_done(batch)
        if expire and done:
            self.client.hset(f"{self.prefix}batch:{batch.tenant}:{batch.id}", "expires_at", 1)
            if not self.house.unfinished(batch):
                batch.removing = batch.expired = True
        self.due = batch
        hints = self._pass(Patience(1000, 1000, MOST_CRASHES, pause_s=0)).hints
        if batch.admitting:
            del self.house.batches[batch.id]
        else:
            self._step(batch)
            if expire and done and not batch.expired:
                self.client.hset(f"{self.prefix}batch:{batch.tenant}:{batch.id}", "expires_at", LATER)
        self._check_hints(hints)

    due: KeptBatch | None = None

    def put_off_batches(self) -> None:
        """Before a pass: nothing is due but what the rule says."""
        for member in self.client.zrange(f"{self.prefix}batches_due", 0, -1):
            mine = self.due is not None and member == f"{self.due.tenant}:{self.due.id}"
            self.client.zadd(f"{self.prefix}batches_due", {member: 1 if mine else LATER})
        self.due = None

    # --- the model's steps

    def _step(self, batch: KeptBatch) -> None:
        if not self.house.unfinished(batch):
            return
        if batch.removing:
            self._remove(batch)
        elif batch.cancel_requested:
            self._cancel(batch)
        else:
            self._take(batch, STEP)

    def _take(self, batch: KeptBatch, count: int) -> list[Kept]:
        """The next staged jobs get records."""
        taken, batch.staged = batch.staged[:count], batch.staged[count:]
        jobs = []
        for new in taken:
            ref = JobRef(batch.tenant, new.id)
            self.house.lives[ref] += 1
            job = Kept(ref, new.spec, batch.key_id, self.house.lives[ref], batch=batch)
            self.house.jobs[ref] = job
            batch.jobs.append(ref)
            jobs.append(job)
        return jobs

    def _cancel(self, batch: KeptBatch) -> None:
        refs = batch.jobs[batch.cancel_at : batch.cancel_at + STEP]
        for ref in refs:
            job = self.house.jobs.get(ref)
            if job and job.status is QUEUED:
                self.house.move(job, JobStatus.CANCELED)
            elif job and job.status is RUNNING:
                job.mark = "canceled"
        more = self._take(batch, STEP - len(refs))
        for job in more:
            self.house.move(job, JobStatus.CANCELED)
        batch.cancel_at += len(refs) + len(more)

    def _remove(self, batch: KeptBatch) -> None:
        del batch.staged[:STEP]
        refs, batch.jobs = batch.jobs[:STEP], batch.jobs[STEP:]
        for ref in refs:
            job = self.house.jobs.get(ref)
            if job and batch.expired:
                del self.house.jobs[ref]
                self.house.gone.add(ref)
                with pytest.raises(GoneError):
                    self.store.get(ref)
            elif job:
                self.house.drop(job)
        if not batch.staged and not batch.jobs:
            del self.house.batches[batch.id]

    # --- what must hold

    def check_batches(self, seen: Snapshot) -> None:
        """Each batch's counts, order of ends and lists are what its jobs say."""
        self.house.moment += 1
        batches = self.house.batches.values()
        assert set(seen.names("batch")) == {f"{batch.tenant}:{batch.id}" for batch in batches}
        for tenant in TENANTS:
            shown = {b.id for b in batches if b.tenant == tenant and not b.admitting and not b.removing}
            assert seen.zset(f"batches:{tenant}").keys() == shown
        staged = Counter(new.spec.model for batch in batches for new in batch.staged)
        assert {model: int(count) for model, count in seen.hash("staged").items() if int(count)} == dict(staged)
        for batch in batches:
            self._check_batch(batch, seen)

    def _check_batch(self, batch: KeptBatch, seen: Snapshot) -> None:
        name = f"{batch.tenant}:{batch.id}"
        fields = seen.hash(f"batch:{name}")
        done = not batch.admitting and self.house.is_done(batch)
        wanted = batch.admitting or self.house.unfinished(batch) or done
        assert (name in seen.zset("batches_due")) is wanted, name
        if batch.admitting:
            assert fields["status"] == "admitting"
            return
        assert [f"{batch.tenant}:{job_id}" for job_id in seen.list(f"batch_jobs:{name}")] == list(map(str, batch.jobs))
        assert len(seen.list(f"batch_staged:{name}")) == 2 * len(batch.staged)
        if batch.removing:
            assert fields["status"] == "removing"
            return
        counts = Counter(dict.fromkeys(JobStatus, 0))
        counts.update(job.status for job in self.house.of_batch(batch))
        counts[QUEUED] += len(batch.staged)
        assert {status: int(fields[status]) for status in JobStatus} == counts
        assert int(fields["total"]) == batch.size - batch.deleted == counts.total()
        assert ("completed_at" in fields) is ("expires_at" in fields) is done
        assert ("cancel_requested" in fields) is batch.cancel_requested
        ends = [JobRef(batch.tenant, job_id) for job_id in seen.zset(f"batch_ended:{name}")]
        assert sorted(ends, key=str) == sorted(batch.ends, key=str)
        moments = [batch.ends[ref] for ref in ends]
        assert moments == sorted(moments)
