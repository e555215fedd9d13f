"""A fleet with no worker up, put right by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest
import redis

from shared.job import JobRef, JobSpec, JobStatus
from shared.reconcile import reconcile
from shared.store.connection import key_prefix
from shared.store.protocol import ModelInfo, NewJob, Submission, WorkerInfo
from shared.store.redis import RedisStore
from shared.store.retention import Retention
from tests.servers import free_port

LEASE_S = 1.2


@pytest.fixture
def abandoned(settings, redis_client: redis.Redis) -> tuple[RedisStore, JobRef]:
    """A job whose worker is gone, and nobody is there to see it."""
    store = RedisStore(redis_client, key_prefix(settings), Retention(worker_lease_s=LEASE_S))
    store.submit(Submission("shop", "key_1", (NewJob("a", JobSpec("hello", "general", "demo")),)))
    store.beat(WorkerInfo("gone", ModelInfo("demo", "1", "echo", "cpu", "none", 1024), 4), ())
    ref = JobRef("shop", "a")
    assert store.claim(ref, "gone", "t") is not None
    time.sleep(LEASE_S)
    return store, ref


@pytest.mark.parametrize(
    "command", [("-m", "shared.reconcile"), ("-m", "smarttextgen", "reconcile")], ids=["module", "command"]
)
def test_it_is_put_right(settings, abandoned: tuple[RedisStore, JobRef], command: tuple[str, ...]) -> None:
    store, ref = abandoned
    env = {
        "REDIS_URL": settings.redis_url,
        "REDIS_PREFIX": settings.redis_prefix,
        "WORKER_LEASE_S": str(LEASE_S),
        "WORKER_BEAT_S": "0.3",
    }
    done = subprocess.run(
        [sys.executable, *command, "--json"], env=os.environ | env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report == {"reaped": ["gone"], "hints_sent": 0, "waiting": {"demo": 1}, "workers": 0}
    assert store.get(ref).status is JobStatus.QUEUED


def test_a_pass_that_comes_late_gives_workers_another_lease_and_is_made_up_for(
    settings, abandoned: tuple[RedisStore, JobRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, ref = abandoned
    pauses = iter([0.0, 0.0, LEASE_S])  # the third is a stall of the machine
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(seconds + next(pauses, 0.0)))
    report = reconcile(settings.model_copy(update={"worker_lease_s": LEASE_S, "worker_beat_s": 0.3}), store)
    assert report.reaped == ["gone"]
    assert store.get(ref).status is JobStatus.QUEUED


def test_people_get_sentences(settings, abandoned: tuple[RedisStore, JobRef]) -> None:
    env = {
        "REDIS_URL": settings.redis_url,
        "REDIS_PREFIX": settings.redis_prefix,
        "WORKER_LEASE_S": str(LEASE_S),
        "WORKER_BEAT_S": "0.3",
    }
    done = subprocess.run(
        [sys.executable, "-m", "shared.reconcile"], env=os.environ | env, capture_output=True, text=True, check=False
    )
    assert "Workers found gone: gone." in done.stdout
    assert "Jobs waiting: 1 for demo." in done.stdout


def test_without_redis_it_says_so() -> None:
    env = os.environ | {"REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"}
    done = subprocess.run(
        [sys.executable, "-m", "shared.reconcile"], env=env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "Redis does not answer.\n")
