"""The store against a model: Hypothesis calls its operations in any order, and after each one the records must be what the
model says, and every set, line and counter in Redis must agree with the records.

Time is pushed by hand: a lease or a deadline "runs out" when the test moves its score, so nothing here sleeps. The test
reads Redis with a client of its own, never through the store.
"""

from __future__ import annotations

import os
import secrets
from collections import Counter

import pytest
import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shared.errors import (
    GoneError,
    IdempotencyKeyReusedError,
    JobAlreadyFinishedError,
    JobExistsError,
    JobNotRetryableError,
    NotFoundError,
)
from shared.job import PRIORITY_RANK, Choice, JobRef, JobSpec, JobStatus, Outcome, Priority, Usage
from shared.store.memory import MemoryStore
from shared.store.protocol import (
    Finished,
    Hint,
    Idempotency,
    ModelInfo,
    NewJob,
    Patience,
    Reconciled,
    Stop,
    Submission,
    WorkerInfo,
)
from shared.store.redis import RedisStore
from tests.servers import RedisServer
from tests.store.batch_rules import STEP, BatchRules
from tests.store.batching import make_small
from tests.store.model import (
    MODELS,
    MOST_CRASHES,
    MOST_TURNS,
    QUEUED,
    RETENTION,
    RUNNING,
    SLOTS,
    TENANTS,
    WORKERS,
    Claimed,
    House,
    Kept,
    Snapshot,
)

PHASES = [Phase.generate] if os.environ.get("QUICK") else tuple(Phase)
tenants = st.sampled_from(TENANTS)
models = st.sampled_from(MODELS)
workers = st.sampled_from(WORKERS)
users = st.sampled_from([None, "ann", "bob"])
nth = st.integers(0, 30)
ends = st.sampled_from(sorted(status for status in JobStatus if status.ended))


class StoreMachine(BatchRules, RuleBasedStateMachine):
    """Rules call the store and the model alike. Subclasses say which store."""

    store: RedisStore
    client: redis.Redis
    prefix: str

    def connect(self) -> None:
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.connect()
        self.house = House()
        self.numbers = 0
        self.scopes: dict[str, tuple[str, tuple[str, ...]]] = {}

    @initialize()
    def open(self):
        """Two workers and some jobs, so that examples begin where it gets interesting."""
        for worker in ("w1", "w2"):
            self.beat(worker, "demo", draining=False)
        self.submit("shop", "demo", "ann", 3, Priority.NORMAL, None, 1000, 10)
        for n in range(2):
            self.claim_what_waits(n)

    # --- the client's side

    def submission(self, tenant: str, ids: list[str], spec: JobSpec, **more) -> Submission:
        key_id = f"key_{tenant}"
        return Submission(tenant, key_id, tuple(NewJob(job_id, spec) for job_id in ids), **more)

    def _keep(self, submission: Submission) -> None:
        for new in submission.jobs:
            ref = JobRef(submission.tenant, new.id)
            self.house.lives[ref] += 1
            self.house.jobs[ref] = Kept(
                ref, new.spec, submission.key_id, self.house.lives[ref], attempt=self.house.attempts.get(ref, 0)
            )

    @rule(
        tenant=tenants,
        model=models,
        user=users,
        count=st.integers(1, 4),
        priority=st.sampled_from(Priority),
        queue_s=st.sampled_from([None, 1000]),
        run_s=st.sampled_from([None, 1000]),
        length=st.integers(10, 500),
    )
    def submit(self, tenant, model, user, count, priority, queue_s, run_s, length):
        spec = JobSpec(
            "hello",
            "general",
            model,
            user,
            length,
            priority=priority,
            queue_timeout_s=queue_s,
            execution_timeout_s=run_s,
        )
        ids = [f"many-{self.numbers + index}" for index in range(count)]
        self.numbers += count
        submission = self.submission(tenant, ids, spec)
        receipt = self.store.submit(submission)
        assert receipt.ids == tuple(ids)
        assert all(position >= 1 for position in receipt.positions)
        self._keep(submission)
        self._check_hints(receipt.hints)
        again = self.store.submit(submission)  # the answer was lost, the command repeated
        assert (again.ids, again.created_at, again.hints) == (receipt.ids, receipt.created_at, ())

    @rule(tenant=tenants, which=st.integers(0, 2), prompt=st.sampled_from(["one", "two"]))
    def put(self, tenant, which, prompt):
        """A client-chosen id, which may exist, have been deleted, or be past its retention."""
        ref = JobRef(tenant, f"mine-{which}")
        spec = JobSpec(prompt, "general", "demo", "ann")
        submission = self.submission(tenant, [ref.id], spec, chosen_id=True)
        there = self.house.jobs.get(ref)
        if there and there.spec != spec:
            with pytest.raises(JobExistsError):
                self.store.submit(submission)
        elif ref in self.house.gone:
            with pytest.raises(GoneError):
                self.store.submit(submission)
        else:
            receipt = self.store.submit(submission)
            assert receipt.created is (there is None)
            if there is None:
                self._keep(submission)
            self._check_hints(receipt.hints)

    @rule(tenant=tenants, key=st.sampled_from("ab"), prompt=st.sampled_from(["one", "two"]))
    def submit_under_a_key(self, tenant, key, prompt):
        scope = f"{tenant}-{key}"
        self.numbers += 1
        submission = self.submission(
            tenant,
            [f"one-{self.numbers}"],
            JobSpec(prompt, "general", "demo"),
            idempotency=Idempotency(scope, prompt, 1000),
        )
        seen = self.scopes.get(scope)
        if seen and seen[0] != prompt:
            with pytest.raises(IdempotencyKeyReusedError):
                self.store.submit(submission)
            return
        receipt = self.store.submit(submission)
        assert receipt.replayed is (seen is not None)
        if seen:
            assert receipt.ids == seen[1]
        else:
            self.scopes[scope] = (prompt, receipt.ids)
            self._keep(submission)
            self._check_hints(receipt.hints)

    def _any(self, n: int) -> Kept:
        """Half of the time one that runs, where there is one: most of what can go wrong starts there."""
        pool = (self.house.of(RUNNING) if n % 2 else []) or list(self.house.jobs.values())
        return pool[n // 2 % len(pool)]

    def _claimed(self, n: int) -> Claimed:
        """Half of the time the latest attempt."""
        return self.house.claims[-1 - (n // 2 % len(self.house.claims) if n % 2 else 0)]

    @precondition(lambda self: self.house.jobs)
    @rule(n=nth)
    def cancel(self, n):
        job = self._any(n)
        if job.status is QUEUED:
            assert self.store.cancel(job.ref).status is JobStatus.CANCELED
            self.house.move(job, JobStatus.CANCELED)
        elif job.status is RUNNING:
            assert self.store.cancel(job.ref).cancel_requested
            job.mark = "canceled"
        elif job.status is JobStatus.CANCELED:
            assert self.store.cancel(job.ref).status is JobStatus.CANCELED
        else:
            with pytest.raises(JobAlreadyFinishedError):
                self.store.cancel(job.ref)

    @precondition(lambda self: self.house.jobs)
    @rule(n=nth)
    def retry(self, n):
        job = self._any(n)
        stuck = job.batch and (job.batch.removing or self.house.stops(job.batch))
        if not job.status.ended or job.status is JobStatus.SUCCEEDED or stuck:
            with pytest.raises(JobNotRetryableError):
                self.store.retry(job.ref)
            return
        record, hints = self.store.retry(job.ref)
        assert (record.status, record.attempt, record.output) == (QUEUED, job.attempt, None)
        self.house.move(job, QUEUED)
        job.crashes, job.output, job.convicted = 0, None, False
        self._check_hints(hints)

    @precondition(lambda self: self.house.jobs)
    @rule(n=nth)
    def delete(self, n):
        job = self._any(n)
        self.store.delete(job.ref)
        self.house.drop(job)
        with pytest.raises(NotFoundError):
            self.store.get(job.ref)

    @precondition(lambda self: any(job.status.ended and not job.batch for job in self.house.jobs.values()))
    @rule(n=nth)
    def let_retention_pass(self, n):
        ended = [job for job in self.house.jobs.values() if job.status.ended and not job.batch]
        job = ended[n % len(ended)]
        self.client.delete(f"{self.prefix}job:{job.ref}")
        self.house.gone.add(job.ref)
        del self.house.jobs[job.ref]
        with pytest.raises(GoneError):
            self.store.get(job.ref)

    @rule(tenant=tenants, user=st.sampled_from(["ann", "bob"]))
    def forget(self, tenant, user):
        assert self.store.delete_history(tenant, user) == len(self.house.turns.pop((tenant, user), []))

    # --- the worker's side

    def _info(self, worker: str, state: str = "ready") -> WorkerInfo:
        model = self.house.alive.get(worker, MODELS[0])
        return WorkerInfo(worker, ModelInfo(model, "r1", "echo", "cpu", "float32", 1024), SLOTS[worker], state)

    @rule(worker=workers, model=models, draining=st.booleans())
    def beat(self, worker, model, draining):
        self.house.alive.setdefault(worker, model)
        self.house.dying.discard(worker)
        running = {claim.ref: claim.attempt for claim in self.house.claims if claim.worker == worker}
        expected = {}
        for ref, attempt in running.items():
            job = self.house.jobs.get(ref)
            if not job or (job.status, job.owner, job.attempt) != (RUNNING, worker, attempt):
                expected[ref] = Stop.LOST
            elif job.mark:
                expected[ref] = Stop(job.mark)
        info = self._info(worker, "draining" if draining else "ready")
        assert self.store.beat(info, list(running.items())).stops == expected

    @precondition(lambda self: self.house.jobs)
    @rule(n=nth, worker=workers)
    def claim(self, n, worker):
        self._claim(self._any(n), worker)

    @precondition(lambda self: self.house.alive and self.house.of(QUEUED))
    @rule(n=nth)
    def claim_what_waits(self, n):
        waiting, alive = self.house.of(QUEUED), sorted(self.house.alive)
        self._claim(waiting[n % len(waiting)], alive[n % len(alive)])

    def _claim(self, job: Kept, worker: str) -> None:
        self.numbers += 1
        token = f"token-{self.numbers}"
        registered = worker in self.house.alive and worker not in self.house.dying
        claim = self.store.claim(job.ref, worker, token)
        if job.status is QUEUED and self.house.stops(job.batch):
            assert claim is None
            self.house.move(job, JobStatus.CANCELED)
            return
        if job.status is not QUEUED or not registered or not self.house.has_room(worker, job.crashes):
            assert claim is None
            return
        assert claim is not None
        job.status, job.owner, job.attempt = RUNNING, worker, job.attempt + 1
        if job.crashes >= 2:
            self.house.suspects[worker].add(job.ref)
        assert (claim.job.attempt, claim.job.owner) == (job.attempt, worker)
        turns = self.house.turns[job.ref.tenant, job.spec.user_id] if job.spec.user_id else []
        assert [turn.job_id for turn in claim.history] == turns
        self.house.claims.append(Claimed(job.ref, job.life, worker, job.attempt, token))

    @precondition(lambda self: self.house.claims)
    @rule(n=nth)
    def claim_again(self, n):
        """The command repeated because its answer was lost: the same attempt, or nothing."""
        said = self._claimed(n)
        job = self.house.jobs.get(said.ref)
        mine = job and (job.life, job.status, job.owner, job.attempt) == (
            said.life, RUNNING, said.worker, said.attempt,
        )  # fmt: skip
        if job and job.status is QUEUED:
            return  # that would be a claim of its own
        claim = self.store.claim(said.ref, said.worker, said.token)
        assert (claim is not None and claim.job.attempt == said.attempt) if mine else claim is None

    @precondition(lambda self: self.house.claims)
    @rule(n=nth, status=ends, twice=st.booleans())
    def finish(self, n, status, twice):
        """Any attempt that ever was says an end: the one on record, one that lost its job, one of a deleted job."""
        self._finish(self._claimed(n), status, twice=twice)

    @precondition(lambda self: self.house.of(RUNNING))
    @rule(n=nth, status=ends)
    def finish_what_runs(self, n, status):
        running = self.house.of(RUNNING)
        job = running[n % len(running)]
        said = next(c for c in self.house.claims if (c.ref, c.life, c.attempt) == (job.ref, job.life, job.attempt))
        self._finish(said, status, twice=False)

    def _lost(self) -> list[Claimed]:
        """Attempts whose job runs again, as another attempt."""
        jobs = self.house.jobs
        return [c for c in self.house.claims if c.ref in jobs and jobs[c.ref].status is RUNNING
                and (jobs[c.ref].life, jobs[c.ref].attempt) != (c.life, c.attempt)]  # fmt: skip

    @precondition(lambda self: self._lost())
    @rule(n=nth, status=ends)
    def finish_what_was_lost(self, n, status):
        lost = self._lost()
        self._finish(lost[n % len(lost)], status, twice=False)

    @precondition(lambda self: self.house.of(RUNNING))
    @rule(n=nth, worker=workers)
    def hand_over(self, n, worker):
        """From one worker to another: what most faults come to."""
        running = self.house.of(RUNNING)
        job = running[n % len(running)]
        assert job.owner is not None
        hints = self.store.release(job.ref, job.owner, job.attempt)
        self.house.hand_back(job)
        self._check_hints(hints or ())
        self._claim(job, worker)

    def _finish(self, said: Claimed, status: JobStatus, *, twice: bool) -> None:
        self.numbers += 1
        output = f"said {self.numbers}"
        outcome = Outcome(status, (Choice(0, output, "stop"),), Usage(3, 2), cache_key=f"c{said.ref.id}")
        job = self.house.jobs.get(said.ref)
        mine = job is not None and (job.life, job.owner, job.attempt) == (said.life, said.worker, said.attempt)
        verdict, hints = self.store.finish(said.ref, said.worker, said.attempt, outcome)
        if mine and job.status is RUNNING:
            assert verdict is Finished.ACCEPTED
            assert (said.ref, said.life, said.attempt) not in self.house.written, "two ends of one attempt"
            self.house.written.add((said.ref, said.life, said.attempt))
            self.house.move(job, status)
            job.output = output
            self._count(job)
        else:
            assert verdict is (Finished.ACCEPTED if mine and job.status is status else Finished.FENCED)
        self._check_hints(hints)
        if twice:
            assert self.store.finish(said.ref, said.worker, said.attempt, outcome) == (verdict, ())

    def _count(self, job: Kept) -> None:
        self.house.usage[job.ref.tenant].update({"jobs": 1, "prompt_tokens": 3, "completion_tokens": 2})
        if job.status is JobStatus.SUCCEEDED and job.spec.user_id:
            turns = self.house.turns[job.ref.tenant, job.spec.user_id]
            turns.append(job.ref.id)
            del turns[:-MOST_TURNS]

    @precondition(lambda self: self.house.claims)
    @rule(n=nth)
    def release(self, n):
        said = self._claimed(n)
        job = self.house.jobs.get(said.ref)
        hints = self.store.release(said.ref, said.worker, said.attempt)
        if job and (job.life, job.status, job.owner, job.attempt) == (said.life, RUNNING, said.worker, said.attempt):
            assert hints is not None
            self.house.hand_back(job)
            self._check_hints(hints)
        else:
            assert hints is None

    @rule(worker=workers)
    def depart(self, worker):
        hints = self.store.depart(worker)
        for job in self.house.of(RUNNING):
            if job.owner == worker:
                self.house.hand_back(job)
        self._off_the_list(worker)
        self._check_hints(hints)

    def _off_the_list(self, worker: str) -> None:
        self.house.alive.pop(worker, None)
        self.house.dying.discard(worker)
        self.house.suspects[worker].clear()

    @precondition(lambda self: set(self.house.alive) - self.house.dying)
    @rule(n=nth)
    def let_a_lease_run_out(self, n):
        living = sorted(set(self.house.alive) - self.house.dying)
        worker = living[n % len(living)]
        self.client.zadd(f"{self.prefix}workers", {worker: 1})
        self.client.delete(f"{self.prefix}worker:{worker}")
        self.house.dying.add(worker)

    @precondition(lambda self: set(self.house.alive) - self.house.dying)
    @rule(n=nth)
    def crash_and_start_again(self, n):
        """A worker dies, is found, comes back, and takes what waits: jobs gather crashes."""
        before = set(self.house.alive) - self.house.dying
        self.let_a_lease_run_out(n)
        (worker,) = before - (set(self.house.alive) - self.house.dying)
        model = self.house.alive[worker]
        self.reconcile(1000, 1000)
        self.beat(worker, model, draining=False)
        for job in self.house.of(QUEUED)[-3:]:
            self._claim(job, worker)

    @rule(grace_s=st.sampled_from([0, 1000]), age_s=st.sampled_from([-1, 1000]))
    def reconcile(self, grace_s, age_s):
        self._check_hints(self._pass(Patience(grace_s, age_s, MOST_CRASHES, pause_s=0)).hints)

    def _pass(self, patience: Patience) -> Reconciled:
        self.put_off_batches()
        done = self.store.reconcile(patience)
        assert set(done.reaped) == self.house.dying
        for worker in list(self.house.dying):
            for job in self.house.of(RUNNING):
                if job.owner == worker:
                    self.house.orphan(job)
            self._off_the_list(worker)
        return done

    @precondition(lambda self: self.client.exists(f"{self.prefix}deadlines"))
    @rule(n=nth)
    def let_a_deadline_pass(self, n):
        entries = self.client.zrange(f"{self.prefix}deadlines", 0, -1)
        entry = entries[n % len(entries)]
        self.client.zadd(f"{self.prefix}deadlines", {entry: 1})
        kind, _, member = entry.partition("|")
        done = self._pass(Patience(1000, 1000, MOST_CRASHES, pause_s=0))  # reaps first, then looks at deadlines
        job = self.house.jobs[JobRef.parse(member)]
        if kind == "queue":
            self.house.move(job, JobStatus.EXPIRED)
        elif job.status is RUNNING and not job.mark:
            job.mark = "expired"
        self._check_hints(done.hints)

    # --- the operator's side

    @rule(model=models)
    def pause(self, model):
        self.store.pause(model)
        self.house.paused.add(model)

    @rule(model=models)
    def resume(self, model):
        hints = self.store.resume(model)
        self.house.paused.discard(model)
        self._check_hints(hints)

    @rule(model=models)
    def purge(self, model):
        waiting = [job for job in self.house.of(QUEUED) if job.spec.model == model]
        assert self.store.purge(model) == len(waiting)
        for job in waiting:
            self.house.move(job, JobStatus.CANCELED)

    # --- what must hold

    def _check_hints(self, hints: tuple[Hint, ...]) -> None:
        """A hint names a job that waits, in the window, once."""
        assert len({hint.ref for hint in hints}) == len(hints)
        for hint in hints:
            job = self.house.jobs[hint.ref]
            assert (job.status, job.spec.model) == (QUEUED, hint.model)
            assert hint.again or hint.model not in self.house.paused
            assert self.client.zscore(f"{self.prefix}sent:{hint.model}", str(hint.ref)) is not None

    @invariant()
    def records_and_bookkeeping_are_the_models(self):
        seen = Snapshot(self.client, self.prefix)
        self._check_records(seen)
        for model in MODELS:
            self._check_model(model, seen)
        self._check_owners(seen)
        self._check_effects(seen)
        self.check_batches(seen)

    def _check_records(self, seen: Snapshot) -> None:
        assert seen.jobs.keys() == {str(ref) for ref in self.house.jobs}
        for ref, job in self.house.jobs.items():
            record = seen.jobs[str(ref)]
            assert (record["status"], int(record.get("attempt", 0)), record.get("owner"), record.get("cancel")) == (
                job.status, job.attempt, job.owner, job.mark,
            ), ref  # fmt: skip
            assert ("finished_at" in record) is job.status.ended
            assert (seen.ttls[str(ref)] > 0) is (job.status.ended and job.batch is None)
            if job.output:
                assert job.output in record["result"]
            assert ("worker_crashed" in record.get("error", "")) is job.convicted
            assert str(ref) in {f"{ref.tenant}:{job_id}" for job_id in seen.zset(f"jobs:{ref.tenant}")}

    def _check_model(self, model: str, seen: Snapshot) -> None:
        """Every waiting job is in one line or in the window, and all that counts them says so."""
        queued = {str(job.ref) for job in self.house.of(QUEUED) if job.spec.model == model}
        depths, served = seen.hash(f"depth:{model}"), seen.hash(f"served:{model}")
        lined: list[str] = []
        for rank in PRIORITY_RANK.values():
            lines = {tenant: list(seen.zset(f"line:{model}:{rank}:{tenant}")) for tenant in TENANTS}
            for line in lines.values():
                assert all(int(seen.jobs[member]["rank"]) == rank for member in line)
                lined += line
            assert int(depths.get(str(rank), 0)) == sum(map(len, lines.values()))
            active = seen.zset(f"active:{model}:{rank}")
            assert active.keys() == {tenant for tenant, line in lines.items() if line}
            assert all(abs(score - float(served[tenant])) < 1e-3 for tenant, score in active.items())
        assert sorted([*lined, *seen.zset(f"sent:{model}")]) == sorted(queued)
        running = {str(job.ref) for job in self.house.of(RUNNING) if job.spec.model == model}
        assert seen.set(f"running:{model}") == running

    def _check_owners(self, seen: Snapshot) -> None:
        for worker in WORKERS:
            assert seen.set(f"suspects:{worker}") == {str(ref) for ref in self.house.suspects[worker]}
            assert seen.set(f"owned:{worker}") == {str(j.ref) for j in self.house.of(RUNNING) if j.owner == worker}
        assert seen.zset("workers").keys() == set(self.house.alive)
        waiting = Counter(job.key_id for job in self.house.of(QUEUED))
        for batch in self.house.batches.values():
            waiting[batch.key_id] += len(batch.staged)
        waiting = +waiting
        assert {key: int(count) for key, count in seen.hash("waiting").items()} == dict(waiting)
        for entry in seen.zset("deadlines"):
            kind, _, member = entry.partition("|")
            assert self.house.jobs[JobRef.parse(member)].status is (QUEUED if kind == "queue" else RUNNING), entry
        dead = {str(job.ref) for job in self.house.jobs.values() if job.convicted}
        assert dead == seen.zset("dead").keys() - {str(ref) for ref in self.house.gone}

    def _check_effects(self, seen: Snapshot) -> None:
        stats = seen.hash("stats")
        for status in JobStatus:
            assert int(stats.get(f"ended:{status}", 0)) == self.house.ended[status]
        assert int(stats.get("requeued", 0)) == self.house.requeued
        for (tenant, user), turns in self.house.turns.items():
            assert seen.turns(f"history:{tenant}:{user}") == turns
        for tenant in TENANTS:
            assert seen.usage(tenant) == self.house.usage[tenant]


class MemoryMachine(StoreMachine):
    def connect(self) -> None:
        store = MemoryStore(RETENTION)
        self.store, self.client, self.prefix = store, store.client, "{memory}:"


def machine_on(server: RedisServer) -> type[StoreMachine]:
    client = redis.Redis(port=server.port, decode_responses=True)

    class RedisMachine(StoreMachine):
        def connect(self) -> None:
            self.client, self.prefix = client, "{sm" + secrets.token_hex(4) + "}:"
            self.store = RedisStore(client, self.prefix, RETENTION)

        def teardown(self) -> None:
            client.flushdb()

    return RedisMachine


def _settings(examples: int, *, shrink: bool) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
        report_multiple_bugs=False,
        phases=set(Phase) - (set() if shrink else {Phase.shrink}),
    )


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch, STEP)


@pytest.mark.timeout(600)  # a failure is shrunk for up to five minutes
def test_memory_store_is_the_model(small_steps):
    run_state_machine_as_test(MemoryMachine, settings=_settings(100, shrink=True))


def test_redis_store_is_the_model(redis_server: RedisServer, small_steps):
    run_state_machine_as_test(machine_on(redis_server), settings=_settings(60, shrink=False))
