"""How fast the platform recovers, what its scheduler costs, and what a flood does to a neighbour; in one run.

    python -m benchmarks.reliability                  # about three minutes on two cores
    python -m benchmarks.reliability --records 1000000

Parts, each printed and written into benchmarks/results:

- ``recovery``: a worker of three is killed (-9); until each of its jobs runs on another one. Default lease and beat.
- ``lost_hint``: a job whose hint never reaches Celery; until it runs.
- ``flood``: 10,000 jobs of one tenant wait; one job of another tenant, submitted then; until it runs, beside how long a job runs.
- ``cancel``: a running job is canceled; until its slot is free, in engine steps.
- ``fairness``: tokens served to two backlogged tenants of weights 3 and 1, beside the bound of the VTC paper.
- ``scheduler``: server time of claim and finish with 1,000 tenants and 100,000 jobs queued, beside one tenant and one job.
- ``submit``: latency of a submit with ten records in Redis, and with ``--records``.

The engine is the echo engine; what is measured is everything around it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import redis

from shared.errors import JobAlreadyFinishedError
from shared.job import Choice, JobRef, JobSpec, JobStatus, Outcome, Usage
from shared.queue import make_celery, send_hints
from shared.settings import Settings, load_settings
from shared.store.protocol import Hint, ModelInfo, NewJob, Submission, WorkerInfo
from shared.store.redis import RedisStore
from tests.chaos.stack import KEYS, MODEL, PREFIX, Stack
from tests.servers import RedisServer, find_redis_server

RESULTS = Path(__file__).parent / "results"
MEASURED = ("worker_beat_s", "worker_lease_s", "reconcile_s", "hint_grace_s")
"""Settings that stay at their defaults here, and not at the chaos suite's."""
TOKEN_S = 0.02
FLOOD, FLOOD_TOKENS = 10_000, 20
TENANTS, QUEUED = 1_000, 100_000
PAIRS = 300
FAIR_SLOTS = 8

_numbers = itertools.count()


def main() -> None:
    """Run all parts, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reliability", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lease", type=float, help="seconds; default: the setting's")
    parser.add_argument("--records", type=int, default=QUEUED)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report: dict[str, Any] = {"cores": os.cpu_count(), "load_average": os.getloadavg()}
        report["settings"] = _defaults(options.lease)
        report |= _on_a_stack(Path(folder), options.rounds, options.lease)
    with tempfile.TemporaryDirectory() as folder:
        report |= _on_a_server(Path(folder), options.records)
    for name, value in report.items():
        print(f"{name:14}{value}")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"reliability-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\nwritten: {path}")


# --- on a whole stack


def _defaults(lease_s: float | None) -> dict[str, str]:
    chosen = {name.upper(): str(Settings.model_fields[name].default) for name in MEASURED}
    return chosen | ({"WORKER_LEASE_S": str(lease_s)} if lease_s else {})


def _on_a_stack(folder: Path, rounds: int, lease_s: float | None) -> dict[str, Any]:
    with Stack(folder, ECHO_TOKEN_DELAY_S=str(TOKEN_S), **_defaults(lease_s)) as stack:
        store = RedisStore(stack.client, KEYS)
        celery = make_celery(
            load_settings(redis_url=stack.server.url, redis_prefix=PREFIX, model_name=MODEL, engine="echo")
        )

        def send(hints: tuple[Hint, ...]) -> None:
            send_hints(celery, hints, prefix=PREFIX)

        try:
            recovery = [wait for _ in range(rounds) for wait in _kill_a_worker(stack, store, send)]
            lost = [_lose_a_hint(store) for _ in range(rounds)]
            flood = _flood(store, send, rounds)
            cancel = [_cancel(store, send) for _ in range(4 * rounds)]
        finally:
            celery.close()
    return {"recovery": _summary(recovery), "lost_hint": _summary(lost), "flood": flood, "cancel": _in_steps(cancel)}


def _new(count: int = 1, *, tenant: str = "shop", tokens: int = 20) -> Submission:
    jobs = tuple(
        NewJob(
            f"b{next(_numbers)}", JobSpec("hello", "general", MODEL, max_length=tokens, temperature=0.0, cache=False)
        )
        for _ in range(count)
    )
    return Submission(tenant, f"key_{tenant}", jobs)


def _until_running(store: RedisStore, ref: JobRef, began: float, attempt: int = 1) -> float:
    while True:
        job = store.get(ref)
        if job.attempt >= attempt and job.status is not JobStatus.QUEUED:
            return time.monotonic() - began
        time.sleep(0.005)


def _until_ended(store: RedisStore, refs: list[JobRef]) -> None:
    for ref in refs:
        while not store.get(ref).status.ended:
            time.sleep(0.02)


def _kill_a_worker(stack: Stack, store: RedisStore, send: Callable[[tuple[Hint, ...]], None]) -> list[float]:
    submission = _new(9, tokens=450)
    receipt = store.submit(submission)
    send(receipt.hints)
    refs = [JobRef("shop", job_id) for job_id in receipt.ids]
    for ref in refs:
        _until_running(store, ref, 0)
    owners = {ref: store.get(ref).owner for ref in refs}
    victim = next(info for info in store.fleet().workers if info.id in owners.values())
    began = time.monotonic()
    os.kill(victim.pid, 9)
    waits = [_until_running(store, ref, began, 2) for ref in refs if owners[ref] == victim.id]
    for ref in refs:
        with contextlib.suppress(JobAlreadyFinishedError):
            store.cancel(ref)
    _until_ended(store, refs)
    while len(store.fleet().workers) < len(stack.workers):
        time.sleep(0.1)
    return waits


def _lose_a_hint(store: RedisStore) -> float:
    receipt = store.submit(_new())  # its hints go nowhere
    ref = JobRef("shop", receipt.ids[0])
    wait = _until_running(store, ref, time.monotonic())
    _until_ended(store, [ref])
    return wait


def _flood(store: RedisStore, send: Callable[[tuple[Hint, ...]], None], rounds: int) -> dict[str, Any]:
    for _ in range(FLOOD // 500):
        send(store.submit(_new(500, tenant="flood", tokens=FLOOD_TOKENS)).hints)
    time.sleep(2)
    waits = []
    for _ in range(rounds):
        receipt = store.submit(_new(tenant="neighbour"))
        began = time.monotonic()
        send(receipt.hints)
        waits.append(_until_running(store, JobRef("neighbour", receipt.ids[0]), began))
    backlog = store.fleet().queue_lengths[MODEL]
    store.purge(MODEL)
    return {"neighbour_waits_s": _summary(waits), "a_job_runs_s": FLOOD_TOKENS * TOKEN_S, "backlog_meanwhile": backlog}


def _cancel(store: RedisStore, send: Callable[[tuple[Hint, ...]], None]) -> float:
    """Seconds from the cancel to the end of the job: its slot is free by then."""
    receipt = store.submit(_new(tokens=450))
    send(receipt.hints)
    ref = JobRef("shop", receipt.ids[0])
    _until_running(store, ref, 0)
    time.sleep(0.1 + random.random() * TOKEN_S)  # anywhere within a step
    began = time.monotonic()
    store.cancel(ref)
    while not store.get(ref).status.ended:
        time.sleep(0.001)
    return time.monotonic() - began


def _in_steps(seconds: list[float]) -> dict[str, float]:
    steps = [wait / TOKEN_S for wait in seconds]
    return {
        "median_steps": round(statistics.median(steps), 2), "most_steps": round(max(steps), 2),
        "step_ms": TOKEN_S * 1000, "count": len(steps),
    }  # fmt: skip


# --- on a server alone


def _on_a_server(folder: Path, records: int) -> dict[str, Any]:
    binary = find_redis_server()
    assert binary, "a redis-server or valkey-server is needed"
    with RedisServer(binary, folder) as server:
        client = redis.Redis(port=server.port, decode_responses=True)
        small = RedisStore(client, "{small}:")
        few_submit = _submit_latency(small, 10)
        one = _claim_and_finish_us(client, small, lambda: small.submit(_new()))
        large = RedisStore(client, "{large}:")
        for tenant in range(TENANTS):
            large.submit(_new(QUEUED // TENANTS, tenant=f"t{tenant}"))
        many = _claim_and_finish_us(client, large, None)
        while int(client.get("{large}:seq")) < records:  # type: ignore[arg-type]
            large.submit(_new(500, tenant=f"t{next(_numbers) % TENANTS}"))
        many_submit = _submit_latency(large, 300)
        fairness = _fairness(RedisStore(client, "{fair}:"))
        client.close()
    return {
        "fairness": fairness,
        "scheduler": {"claim_and_finish_us_1_tenant_1_job": one, f"{TENANTS}_tenants_{QUEUED}_jobs": many},
        "submit": {
            "ms_10_records": few_submit, f"ms_{records}_records": many_submit, "ratio": round(many_submit / few_submit, 2),
        },
    }  # fmt: skip


def _submit_latency(store: RedisStore, count: int) -> float:
    """Median, milliseconds, of ``count`` submits and then as many again."""
    times = []
    for _ in range(max(count, 10)):
        submission = _new(tenant="clock")
        began = time.perf_counter()
        store.submit(submission)
        times.append((time.perf_counter() - began) * 1000)
    return round(statistics.median(times), 3)


def _claim_and_finish_us(client: redis.Redis, store: RedisStore, refill: Callable[[], Any] | None) -> float:
    """Mean server time of a claim and the finish after it, microseconds, both scripts together."""
    info = WorkerInfo("w1", ModelInfo(MODEL, "1", "echo", "cpu", "none", 1024), 4, "ready", "host", 1)
    outcome = Outcome(JobStatus.SUCCEEDED, (Choice(0, "world", "stop"),), Usage(3, 2))
    store.purge(MODEL) if refill else None
    store.beat(info, [])
    waiting = list(store.resume(MODEL))
    spent = 0.0
    for _ in range(PAIRS):
        if refill:
            waiting = list(refill().hints)
        hint = waiting.pop(0)
        before = _script_us(client)
        claim = store.claim(hint.ref, "w1", hint.ref.id)
        assert claim is not None
        _, more = store.finish(hint.ref, "w1", claim.job.attempt, outcome)
        spent += _script_us(client) - before
        waiting += more
    return round(spent / PAIRS, 1)


def _fairness(store: RedisStore) -> dict[str, Any]:
    """Two tenants with long lines and outputs of random length; jobs end in random order.

    Bound (Sheng et al., OSDI 2024, theorem 4.2): while both are backlogged, their weighted service differs by no more than
    2 max(a prompt's cost, the cost of all that can be in flight at a time).
    """
    chance = random.Random(7)  # a repeatable workload
    weights = {"ant": 3, "bee": 1}
    jobs, longest, prompt_tokens = 1_500, 200, 10
    for tenant, weight in weights.items():
        for _ in range(jobs // 500):
            store.submit(dataclasses.replace(_new(500, tenant=tenant, tokens=longest), weight=weight))
    store.beat(WorkerInfo("w1", ModelInfo(MODEL, "1", "echo", "cpu", "none", 1024), FAIR_SLOTS, "ready", "host", 1), [])
    waiting, running = list(store.resume(MODEL)), []
    served, left, furthest = dict.fromkeys(weights, 0), dict.fromkeys(weights, jobs), 0.0
    while min(left.values()) > 2 * FAIR_SLOTS:
        while waiting and len(running) < FAIR_SLOTS:
            ref = waiting.pop(0).ref
            claim = store.claim(ref, "w1", ref.id)
            assert claim is not None
            running.append((ref, claim.job.attempt))
        ref, attempt = running.pop(chance.randrange(len(running)))
        usage = Usage(prompt_tokens, chance.randint(1, longest))
        outcome = Outcome(JobStatus.SUCCEEDED, (Choice(0, "world", "stop"),), usage)
        waiting += store.finish(ref, "w1", attempt, outcome)[1]
        left[ref.tenant] -= 1
        served[ref.tenant] += usage.prompt_tokens + 2 * usage.completion_tokens
        furthest = max(furthest, abs(served["ant"] / weights["ant"] - served["bee"] / weights["bee"]))
    in_flight = FAIR_SLOTS + max(4, FAIR_SLOTS // 4)
    return {
        "weights": weights, "served": served, "ratio": round(served["ant"] / served["bee"], 3),
        "furthest_apart": round(furthest), "bound": 2 * in_flight * (prompt_tokens + 2 * longest),
    }  # fmt: skip


def _script_us(client: redis.Redis) -> float:
    return float(client.info("commandstats").get("cmdstat_evalsha", {}).get("usec", 0))


def _summary(seconds: list[float]) -> dict[str, float]:
    return {
        "median_s": round(statistics.median(seconds), 2), "most_s": round(max(seconds), 2), "count": len(seconds),
    }  # fmt: skip


if __name__ == "__main__":
    main()
