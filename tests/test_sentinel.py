"""Redis behind three sentinels: its master is killed under load, and the stack goes on with a replica."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis
from kombu.transport.redis import SentinelTransport

from shared.errors import ConfigurationError, StoreUnavailableError
from shared.job import JobRef, JobSpec
from shared.queue import broker_url, make_celery
from shared.settings import load_settings
from shared.store.connection import connect, key_prefix, require_server
from shared.store.protocol import NewJob, Submission
from shared.store.redis import RedisStore
from shared.store.scripts import Durability
from tests.api.live import LiveApi
from tests.servers import Process, free_port, until

MASTER = "jobs"
PASSWORD = "sentinel-test"  # of servers that live for seconds
SENTINEL_PASSWORD = "sentinels-own"
URL = f"redis://:{PASSWORD}@not-used:1/0"
ENDS = {"succeeded", "failed", "canceled", "expired"}


class Cluster:
    """A master, two replicas and three sentinels, all on loopback."""

    def __init__(self, binary: str, folder: Path) -> None:
        self._binary, self._folder = binary, folder
        self._running: list[subprocess.Popen[bytes]] = []
        self.master_port, *replica_ports = (free_port() for _ in range(3))
        self.master = self._start_server(self.master_port)
        for port in replica_ports:
            self._start_server(port, "--replicaof", f"127.0.0.1 {self.master_port}")
        self._ports = [free_port() for _ in range(3)]
        for port in self._ports:
            self._start_sentinel(port)

    def _start_server(self, port: int, *options: str) -> subprocess.Popen[bytes]:
        place = self._folder / f"redis{port}"
        place.mkdir()
        return self._start(
            place, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(place), "--appendonly", "yes",
            "--requirepass", PASSWORD, "--masterauth", PASSWORD, "--repl-diskless-sync-delay", "0",
            "--min-replicas-to-write", "1", *options,
        )  # fmt: skip

    def _start_sentinel(self, port: int) -> None:
        place = self._folder / f"sentinel{port}"
        place.mkdir()
        (place / "sentinel.conf").write_text(
            f"port {port}\nbind 127.0.0.1\ndir {place}\nrequirepass {SENTINEL_PASSWORD}\n"
            f"sentinel sentinel-pass {SENTINEL_PASSWORD}\n"
            f"sentinel monitor {MASTER} 127.0.0.1 {self.master_port} 2\nsentinel auth-pass {MASTER} {PASSWORD}\n"
            f"sentinel down-after-milliseconds {MASTER} 1000\nsentinel failover-timeout {MASTER} 5000\n"
        )
        self._start(place, str(place / "sentinel.conf"), "--sentinel")

    def _start(self, place: Path, *arguments: str) -> subprocess.Popen[bytes]:
        with (place / "log").open("ab") as log:
            self._running.append(subprocess.Popen([self._binary, *arguments], stdout=log, stderr=log))
        return self._running[-1]

    @property
    def addresses(self) -> str:
        return ",".join(f"127.0.0.1:{port}" for port in self._ports)

    def until_ready(self) -> None:
        """The master has both replicas, and each sentinel knows them and the others."""
        for port in self._ports:
            sentinel = redis.Redis(port=port, password=SENTINEL_PASSWORD, decode_responses=True)

            def knows_all(client: redis.Redis = sentinel) -> bool:
                with contextlib.suppress(redis.RedisError):
                    state = client.sentinel_master(MASTER)
                    return (state["num-slaves"], state["num-other-sentinels"]) == (2, 2)
                return False

            until(knows_all, 30, what="sentinels that know each other")
            sentinel.close()
        master = redis.Redis(port=self.master_port, password=PASSWORD)
        until(lambda: master.info("replication").get("min_slaves_good_slaves") == 2, 20, what="two replicas")
        master.close()

    def close(self) -> None:
        for process in self._running:
            process.kill()
        for process in self._running:
            process.wait(10)


@pytest.fixture
def cluster(redis_binary: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    cluster = Cluster(redis_binary, tmp_path)
    monkeypatch.setenv("REDIS_SENTINELS", cluster.addresses)  # for the processes, and for the tests' own clients
    monkeypatch.setenv("REDIS_SENTINEL_MASTER", MASTER)
    monkeypatch.setenv("REDIS_SENTINEL_PASSWORD", SENTINEL_PASSWORD)
    monkeypatch.setenv("REDIS_WAIT_REPLICAS", "1")
    try:
        cluster.until_ready()
        yield cluster
    finally:
        cluster.close()


class Customer(threading.Thread):
    """Submits without pause, each job until it is acknowledged, and writes down what it is told."""

    def __init__(self, api: LiveApi, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.api = api
        self.acknowledged: dict[str, float] = {}
        self.ended: dict[str, dict] = {}
        self.refused: list[int] = []
        self.stop = threading.Event()

    def run(self) -> None:
        for number in itertools.count():
            if self.stop.is_set():
                return
            self._submit(f"{self.name}-{number}")
            for job_id in set(self.acknowledged) - set(self.ended):
                self._look(job_id)
            time.sleep(0.05)

    def _submit(self, key: str) -> None:
        body = {"prompt": f"say {key}", "max_length": 20, "cache": False}
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                answer = self.api.call("POST", "/api/generate", body, Idempotency_Key=key)
                if answer.status == 202:
                    self.acknowledged[answer.json["id"]] = time.monotonic()
                    return
                assert answer.status in {409, 503}, answer.body
                self.refused.append(answer.status)
            time.sleep(0.1)

    def _look(self, job_id: str) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            answer = self.api.call("GET", f"/api/jobs/{job_id}")
            assert answer.status in {200, 503}, f"{job_id} was acknowledged: {answer.body!r}"
            if answer.status == 200 and answer.json["status"] in ENDS:
                self.ended[job_id] = answer.json


def test_a_failover_under_load_loses_nothing_that_was_acknowledged(cluster: Cluster, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        api = stack.enter_context(LiveApi(URL, "failover", tmp_path, DEFAULT_REQUESTS_PER_MINUTE="100000"))
        options = {"WORKER_BEAT_S": "0.3", "WORKER_LEASE_S": "2", "RECONCILE_S": "0.3", "ECHO_TOKEN_DELAY_S": "0.01"}
        for number in range(2):
            worker = Process([sys.executable, "-m", "worker"], tmp_path / f"worker{number}.log", api.env | options)
            stack.callback(worker.kill)
        until(lambda: len(api.store.fleet().workers) == 2, 60, what="two workers")
        customers = [Customer(api, name) for name in ("ann", "bob")]
        for customer in customers:
            customer.start()
        time.sleep(2)
        killed = time.monotonic()
        cluster.master.kill()
        until(lambda: all(max(list(c.acknowledged.values()), default=0) > killed + 1 for c in customers), 60)
        until(
            lambda: any(at > killed for c in customers for job, at in list(c.acknowledged.items()) if job in c.ended),
            30,
        )
        recovered = time.monotonic() - killed
        time.sleep(2)
        for customer in customers:
            customer.stop.set()
        for customer in customers:
            customer.join(30)
        jobs = [job for customer in customers for job in customer.acknowledged]
        assert len(jobs) == len(set(jobs))
        assert any(at < killed for c in customers for at in c.acknowledged.values())

        def ended(job: str) -> bool:
            return api.call("GET", f"/api/jobs/{job}?wait=10").json["status"] in ENDS

        until(lambda: all(ended(job) for job in jobs), 40, what="the ends of all jobs")
        after = {job: api.call("GET", f"/api/jobs/{job}").json for job in jobs}
        assert {job["status"] for job in after.values()} == {"succeeded"}
        told = {job: end for customer in customers for job, end in customer.ended.items()}
        assert {job: after[job] for job in told} == told  # what a client saw end stayed as it was
        today = datetime.now(UTC).date()
        used = api.store.usage("shop", today - timedelta(days=1), today)
        assert sum(row.jobs for row in used) == len(jobs)  # it counts each end, also one that came twice
        assert recovered < 45
        print(f"\n{len(jobs)} jobs, the first after the kill ended {recovered:.1f} s after it")


def test_without_a_replica_nothing_is_acknowledged(cluster: Cluster) -> None:
    settings = load_settings(redis_url=URL, redis_prefix="alone", redis_wait_replicas=3, redis_timeout_s=0.4)
    client = connect(settings)
    require_server(client)
    store = RedisStore(client, key_prefix(settings), durability=Durability.of(settings))
    ref = JobRef("shop", "j1")
    job = NewJob(ref.id, JobSpec(prompt="hello", mode="general", model="demo", max_length=20, temperature=0.0))
    for _ in range(2):  # said again it is the same job, and still on too few
        with pytest.raises(StoreUnavailableError, match="replicas"):
            store.submit(Submission("shop", "key_1", (job,)))
    enough = RedisStore(client, key_prefix(settings), durability=Durability(2))
    assert enough.submit(Submission("shop", "key_1", (job,))).ids == (ref.id,)
    client.close()


def test_the_broker_is_found_as_the_store_is() -> None:
    settings = load_settings(redis_url="redis://user:p%40ss@x/3", redis_sentinels="a:1,b:2", redis_sentinel_master="m")
    assert broker_url(settings) == "sentinel://user:p%40ss@a:1/3;sentinel://user:p%40ss@b:2/3"
    celery = make_celery(settings)
    transport = celery.connection_for_write().transport
    assert isinstance(transport, SentinelTransport)
    assert redis.exceptions.OutOfMemoryError in transport.connection_errors
    assert transport.Channel.do_restore is False
    celery.close()


@pytest.mark.parametrize("wrong", [{"redis_sentinels": "host"}, {"redis_url": "rediss://x", "redis_sentinels": "a:1"}])
def test_wrong_sentinels_are_named(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="REDIS_SENTINELS"):
        load_settings(**wrong)
