"""Real worker processes under real Celery on a real server: ready, working, draining, refusing."""

from __future__ import annotations

import signal
import time

import pytest

from shared.job import JobRef, JobStatus
from shared.queue import make_celery, send_hints
from shared.settings import load_settings
from shared.store.connection import connect, key_prefix
from shared.store.protocol import Hint
from shared.store.redis import RedisStore
from tests.servers import RedisServer, free_port, until
from tests.worker.conftest import submit


def _speaks(store: RedisStore, ref: JobRef) -> bool:
    """Whether the engine has the job: one that is claimed, and not there yet when its worker is told to leave, is handed back."""
    return any(event.kind.isdigit() for event in store.log(ref, 0, 10).entries)


def test_jobs_run_and_sigterm_lets_them_finish(start_worker, ready, redis_store, hint):
    worker = start_worker(ECHO_TOKEN_DELAY_S="0.02")
    ready(worker)
    refs = [submit(redis_store, f"job {n}", max_length=50) for n in range(6)]
    for ref in refs:
        hint(ref)
    until(lambda: all(_speaks(redis_store, ref) for ref in refs))
    worker.process.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    assert {redis_store.get(ref).status for ref in refs} == {JobStatus.SUCCEEDED}
    assert redis_store.fleet().workers == ()


def test_what_does_not_finish_in_time_is_handed_back_and_run_by_the_next(start_worker, ready, redis_store, hint):
    worker = start_worker(ECHO_TOKEN_DELAY_S="0.05", WORKER_DRAIN_S="0.5")
    ready(worker)
    refs = [submit(redis_store, max_length=400, seed=n) for n in range(3)]
    for ref in refs:
        hint(ref)
    until(lambda: all(redis_store.get(ref).status is JobStatus.RUNNING for ref in refs))
    worker.process.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    assert {redis_store.get(ref).status for ref in refs} == {JobStatus.QUEUED}
    ready(start_worker())
    until(lambda: all(redis_store.get(ref).status is JobStatus.SUCCEEDED for ref in refs), what="the second worker")
    assert {redis_store.get(ref).attempt for ref in refs} == {2}


def test_an_operator_drains_it(start_worker, ready, redis_store, hint):
    worker = start_worker(ECHO_TOKEN_DELAY_S="0.02")
    ready(worker)
    refs = [submit(redis_store, f"job {n}", max_length=50) for n in range(3)]
    for ref in refs:
        hint(ref)
    until(lambda: all(_speaks(redis_store, ref) for ref in refs))
    (info,) = redis_store.fleet().workers
    redis_store.drain_worker(info.id)
    assert worker.wait(30) == 0
    assert {redis_store.get(ref).status for ref in refs} == {JobStatus.SUCCEEDED}
    assert {redis_store.get(ref).attempt for ref in refs} == {1}


def test_told_to_leave_while_redis_is_away_it_does_not_stay(start_worker, redis_binary, tmp_path):
    with RedisServer(redis_binary, tmp_path) as server:
        settings = load_settings(redis_url=server.url, redis_prefix="t", engine="echo", model_name="demo")
        client = connect(settings)
        store = RedisStore(client, key_prefix(settings))
        worker = start_worker(REDIS_URL=server.url, REDIS_PREFIX="t", ECHO_TOKEN_DELAY_S="0.02")
        until(lambda: store.fleet().workers != (), 60, what="a ready worker")
        ref = submit(store, max_length=50)
        celery = make_celery(settings)
        send_hints(celery, [Hint(ref, "demo")], prefix="t")
        celery.close()
        until(lambda: store.get(ref).status is JobStatus.RUNNING)
        client.close()
    worker.process.send_signal(signal.SIGTERM)
    assert worker.wait(60) is not None


def test_a_running_job_is_canceled_without_waiting_for_a_beat(start_worker, ready, redis_store, hint):
    ready(start_worker(ECHO_TOKEN_DELAY_S="0.02", WORKER_BEAT_S="8", WORKER_LEASE_S="30"))
    ref = submit(redis_store, max_length=400)
    hint(ref)
    until(lambda: redis_store.get(ref).status is JobStatus.RUNNING)
    redis_store.cancel(ref)
    until(lambda: redis_store.get(ref).status is JobStatus.CANCELED, 4)
    assert redis_store.get(ref).usage.completion_tokens < 200


def test_a_running_job_is_canceled_within_beats(start_worker, ready, redis_store, hint):
    ready(start_worker(ECHO_TOKEN_DELAY_S="0.05"))
    ref = submit(redis_store, max_length=400)
    hint(ref)
    until(lambda: redis_store.get(ref).status is JobStatus.RUNNING)
    redis_store.cancel(ref)
    until(lambda: redis_store.get(ref).status is JobStatus.CANCELED, 5)
    assert redis_store.get(ref).usage.completion_tokens < 200


def test_many_short_jobs_do_not_wait_for_the_poll(start_worker, ready, redis_store, hint):
    """Without the pool that wakes the consumer this takes over 10 s (one poll interval for each four jobs)."""
    ready(start_worker(ECHO_TOKEN_DELAY_S="0.001", ENGINE_SLOTS="1"))
    refs = [submit(redis_store, seed=n, max_length=10) for n in range(60)]
    for ref in refs:
        hint(ref)
    until(lambda: all(redis_store.get(ref).status.ended for ref in refs), 30)


def test_a_worker_holds_no_more_jobs_than_it_can_run(start_worker, ready, redis_store, hint):
    ready(start_worker(ECHO_TOKEN_DELAY_S="0.02", ENGINE_SLOTS="2"))
    refs = [submit(redis_store, seed=n, max_length=60) for n in range(20)]
    for ref in refs:
        hint(ref)
    held = []

    def all_ended() -> bool:
        statuses = [redis_store.get(ref).status for ref in refs]
        held.append(statuses.count(JobStatus.RUNNING))
        return all(status.ended for status in statuses)

    until(all_ended, 60)
    assert 2 <= max(held) <= 6  # the slots, and four that are served from the cache or write their end


@pytest.mark.parametrize("pool", ["prefork", "solo", "threads"])
def test_another_pool_is_refused_with_a_sentence(start_worker, pool: str):
    worker = start_worker("celery", "-A", "worker.app", "worker", f"--pool={pool}")
    if pool == "prefork":  # Celery cannot tell its default from this; the setting wins, and it is ours
        until(lambda: "worker ready" in worker.output())
        return
    assert worker.wait(30) == 78
    assert "threads pool" in worker.output()
    assert "python -m worker" in worker.output()


def test_a_full_redis_does_not_end_a_worker(start_worker, ready, redis_store, redis_client, hint):
    worker = start_worker()
    ready(worker)
    ref = submit(redis_store)
    redis_client.config_set("maxmemory", 1)
    try:
        redis_client.client_kill_filter(_type="normal", skipme=True)
        until(
            lambda: "(server:OutOfMemoryError)" in worker.output(),
            20,
            what="a consumer that was thrown out and refused",
        )
    finally:
        redis_client.config_set("maxmemory", 0)
    hint(ref)
    until(lambda: redis_store.get(ref).status is JobStatus.SUCCEEDED, 30)
    assert worker.process.poll() is None


def test_celerys_own_command_starts_it_too(start_worker, ready, redis_store, hint):
    ready(start_worker("celery", "-A", "worker.app", "worker"))
    ref = submit(redis_store)
    hint(ref)
    until(lambda: redis_store.get(ref).status is JobStatus.SUCCEEDED)


@pytest.mark.parametrize(
    ("env", "code", "named"),
    [
        ({"ENGINE": "transformers", "MODEL_ID": "/nowhere/model"}, 69, "/nowhere/model"),
        ({"ENGINE": "warp"}, 78, "ENGINE"),
        ({"MODES_FILE": "/nowhere/modes.toml"}, 78, "/nowhere/modes.toml"),
    ],
    ids=["no_such_model", "no_such_engine", "no_such_modes"],
)
def test_what_cannot_start_says_why_and_exits(start_worker, redis_store, env: dict[str, str], code: int, named: str):
    worker = start_worker(**env)
    assert worker.wait(60) == code
    assert named in worker.output()
    assert redis_store.fleet().workers == ()


def test_a_second_signal_hands_back_at_once(start_worker, ready, redis_store):
    worker = start_worker(ECHO_TOKEN_DELAY_S="0.05", WORKER_DRAIN_S="60")
    ready(worker)
    ref = submit(redis_store, max_length=400)
    until(lambda: _speaks(redis_store, ref))
    worker.process.send_signal(signal.SIGTERM)
    until(lambda: "draining" in worker.output())
    assert redis_store.get(ref).status is JobStatus.RUNNING
    began = time.monotonic()
    worker.process.send_signal(signal.SIGTERM)
    assert worker.wait(10) == 0
    assert time.monotonic() - began < 5
    job = redis_store.get(ref)
    assert (job.status, job.owner) == (JobStatus.QUEUED, None)


def test_jobs_of_a_killed_worker_run_elsewhere(start_worker, ready, redis_store):
    first = start_worker(ECHO_TOKEN_DELAY_S="0.05")
    ready(first)
    refs = [submit(redis_store, max_length=100, seed=n) for n in range(3)]
    until(lambda: all(redis_store.get(ref).status is JobStatus.RUNNING for ref in refs))
    ready(start_worker())
    killed = time.monotonic()
    first.process.kill()
    until(lambda: all(redis_store.get(ref).status is JobStatus.SUCCEEDED for ref in refs), 20)
    assert time.monotonic() - killed < 8
    assert {redis_store.get(ref).attempt for ref in refs} == {2}


def test_a_device_that_hangs_loses_its_lease(start_worker, ready, redis_store):
    """A step of the echo engine that takes a minute: it neither steps nor idles."""
    first = start_worker(ECHO_TOKEN_DELAY_S="60", WORKER_HANG_S="1")
    ready(first)
    ref = submit(redis_store, max_length=10)
    until(lambda: redis_store.get(ref).status is JobStatus.RUNNING)
    ready(start_worker())
    until(lambda: redis_store.get(ref).status is JobStatus.SUCCEEDED, 20, what="the other worker")
    assert redis_store.get(ref).attempt == 2
    assert first.wait(10) == 70
    assert "not sound" in first.output()


def test_rolling_restarts_under_load_lose_and_double_nothing(start_worker, ready, redis_store):
    options = {"ECHO_TOKEN_DELAY_S": "0.01", "WORKER_DRAIN_S": "0.3", "ENGINE_SLOTS": "4"}
    workers = [start_worker(**options) for _ in range(2)]
    for worker in workers:
        ready(worker)
    refs = []
    for _ in range(3):
        refs += [submit(redis_store, user_id="u", cache=False, max_length=40) for _ in range(15)]
        oldest = workers.pop(0)
        oldest.process.send_signal(signal.SIGTERM)
        workers.append(start_worker(**options))
        assert oldest.wait(20) == 0
        ready(workers[-1])
    until(lambda: all(redis_store.get(ref).status.ended for ref in refs), 60)
    assert {redis_store.get(ref).status for ref in refs} == {JobStatus.SUCCEEDED}
    turns = [turn.job_id for turn in redis_store.history("shop", "u")]
    assert sorted(turns) == sorted(ref.id for ref in refs)
    assert not any("Traceback" in worker.output() for worker in workers)


def test_a_server_that_evicts_is_refused(start_worker, redis_binary, tmp_path):
    with RedisServer(redis_binary, tmp_path, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru") as server:
        worker = start_worker(REDIS_URL=server.url)
        assert worker.wait(30) == 78
    assert "maxmemory-policy noeviction" in worker.output()


def test_without_a_server_it_says_so(start_worker):
    worker = start_worker(REDIS_URL=f"redis://:secret@127.0.0.1:{free_port()}/0")
    assert worker.wait(40) == 75
    assert "REDIS_URL" in worker.output()
    assert "secret" not in worker.output()
