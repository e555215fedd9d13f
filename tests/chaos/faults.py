"""Faults, and when they come: a schedule that is a function of the seed."""

from __future__ import annotations

import heapq
import itertools
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import redis

from shared.queue import AHEAD, NORMAL, queue_name
from tests.chaos.stack import KEYS, MODEL, PREFIX, Kept, Stack
from tests.chaos.threads import TrialThread

SHARES = {
    "kill_worker": 6, "freeze_worker": 3, "term_worker": 2, "kill_api": 3, "kill_redis": 1, "freeze_redis": 1,
    "kill_courier": 2, "drop_hints": 3, "double_hints": 3, "fill_redis": 1,
}  # fmt: skip
QUEUES = [
    f"{KEYS}celery:{queue_name(PREFIX, MODEL)}{f'{chr(6)}{chr(22)}{step}' if step else ''}" for step in (AHEAD, NORMAL)
]
"""Celery's lists, the most urgent first."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A fault, seconds after the start. ``for_s``: how long it lasts, where it lasts."""

    at_s: float
    kind: str
    which: int
    for_s: float


def plan(seed: int, seconds: float, gap_s: float) -> list[Planned]:
    """Each kind once if there is time, then by their shares, ``gap_s`` apart on average."""
    dice = random.Random(seed)
    kinds = dice.sample(list(SHARES), len(SHARES))
    faults, at = [], dice.uniform(1, 2)
    for index in itertools.count():
        if at >= seconds:
            return faults
        kind = kinds[index] if index < len(kinds) else dice.choices(list(SHARES), list(SHARES.values()))[0]
        faults.append(Planned(at, kind, dice.randrange(100), dice.uniform(0.5, 4)))
        at += dice.uniform(0.4, 1.6) * gap_s
    raise AssertionError


@dataclass
class Aboard:
    """A job that ran on a worker when that was killed."""

    member: str
    attempt: int
    killed_at: float
    requeued_s: float | None = None
    running_s: float | None = None


class Faults(TrialThread):
    """Carries the plan out, and undoes at its end whatever still lasts."""

    def __init__(self, stack: Stack, planned: list[Planned]) -> None:
        super().__init__("faults")
        self._stack, self._planned = stack, planned
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._began = 0.0
        self.counts: Counter[str] = Counter()
        self.aboard: list[Aboard] = []
        self.frozen: set[int] = set()

    def _run(self) -> None:
        self._began = time.monotonic()
        for number, fault in enumerate(self._planned):
            heapq.heappush(self._later, (fault.at_s, number - len(self._planned), lambda fault=fault: self._do(fault)))
        while self._later:
            at, _, action = heapq.heappop(self._later)
            time.sleep(max(0.0, self._began + at - time.monotonic()))
            action()

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._later, (time.monotonic() - self._began + seconds, next(self._numbers), action))

    def _do(self, fault: Planned) -> None:
        self.counts[fault.kind] += 1
        worker = self._stack.workers[fault.which % len(self._stack.workers)]
        match fault.kind:
            case "kill_worker":
                self._kill_worker(worker)
            case "freeze_worker":
                self._stack.send(worker, signal.SIGSTOP)
                self.frozen.add(worker.pid)
                process = worker.process
                self._after(fault.for_s + 1.5, lambda: process.process.send_signal(signal.SIGCONT))
            case "term_worker":
                self._stack.send(worker, signal.SIGTERM)
            case "kill_api":
                self._kill_api(whole=fault.which % 2 == 0)
            case "kill_courier":
                self._stack.send(self._stack.courier, signal.SIGKILL)
            case "kill_redis":
                self._stack.server.kill()
                self._after(fault.for_s / 2, self._start_redis)
            case "freeze_redis":
                self._freeze_redis(fault.for_s)
            case "drop_hints" | "double_hints":
                self._steal(fault)
            case "fill_redis":
                self._config("maxmemory", "1")
                self._after(fault.for_s, lambda: self._config("maxmemory", "0"))

    def _kill_worker(self, worker: Kept) -> None:
        members = self._owned_by(worker.pid)
        self._stack.send(worker, signal.SIGKILL)
        now = time.monotonic()
        self.aboard += [Aboard(member, attempt, now) for member, attempt in members]

    def _owned_by(self, pid: int) -> list[tuple[str, int]]:
        """Jobs of the worker with this process id; none while Redis is away."""
        client = self._stack.client
        try:
            for name in self._stack.live_workers():
                if f'"pid":{pid}' in (client.get(f"{KEYS}worker:{name}") or ""):
                    members = client.smembers(f"{KEYS}owned:{name}")
                    return [(m, int(client.hget(f"{KEYS}job:{m}", "attempt") or 0)) for m in members]
        except redis.RedisError:
            pass
        return []

    def _kill_api(self, *, whole: bool) -> None:
        """The whole service, or gunicorn's worker under its master."""
        family = self._stack.family(self._stack.api)
        for process in family if whole else family[1:]:
            process.kill()

    def _start_redis(self) -> None:
        """Once, where it was killed twice: a second server would end at the taken port, and the first be forgotten."""
        process = self._stack.server.process
        if process is None or process.poll() is not None:
            self._stack.server.start()

    def _freeze_redis(self, seconds: float) -> None:
        process = self._stack.server.process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGSTOP)
            self._after(seconds, lambda: process.send_signal(signal.SIGCONT))

    def _config(self, name: str, value: str) -> None:
        try:
            self._stack.client.config_set(name, value)
        except redis.RedisError:
            self.counts["config_failed"] += 1  # the server is down; it comes back with its own settings

    def _steal(self, fault: Planned) -> None:
        """Wait at Celery's lists like a worker, and lose or double what comes. For so long that some of it does come."""
        thread = threading.Thread(target=self._thief, args=(fault.kind, fault.for_s), name="thief", daemon=True)
        thread.start()

    def _thief(self, kind: str, seconds: float) -> None:
        client = redis.Redis(port=self._stack.server.port, socket_timeout=2, protocol=2)
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            try:
                got = client.brpop(QUEUES, timeout=0.2)
                if got is None:
                    continue
                self.counts["hints_dropped" if kind == "drop_hints" else "hints_doubled"] += 1
                if kind == "double_hints":
                    client.lpush(got[0], got[1], got[1])
                    time.sleep(0.02)  # leave it to the workers
            except (redis.RedisError, OSError):
                time.sleep(0.1)
        client.close()


class Watch(threading.Thread):
    """Times the recovery of the jobs that were aboard a killed worker, by looking at their records."""

    def __init__(self, stack: Stack, faults: Faults) -> None:
        super().__init__(name="watch", daemon=True)
        self._client = redis.Redis(port=stack.server.port, decode_responses=True, socket_timeout=1, protocol=2)
        self._faults = faults
        self.halt = threading.Event()

    def run(self) -> None:
        while not self.halt.wait(0.05):
            for job in list(self._faults.aboard):
                if job.running_s is None:
                    try:
                        self._look(job)
                    except (redis.RedisError, OSError):
                        break
        self._client.close()

    def _look(self, job: Aboard) -> None:
        status, attempt = self._client.hmget(f"{KEYS}job:{job.member}", "status", "attempt")
        passed = time.monotonic() - job.killed_at
        moved = status != "running" or int(attempt or 0) > job.attempt
        if moved and job.requeued_s is None:
            job.requeued_s = passed
        if int(attempt or 0) > job.attempt or (moved and status != "queued"):
            job.running_s = passed


class EndsHeard(threading.Thread):
    """Counts what the channel of ends says of each job. Lossy where Redis is away; never more than there was."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(name="ends", daemon=True)
        self._port = stack.server.port
        self.heard: Counter[str] = Counter()
        self.halt = threading.Event()

    def run(self) -> None:
        while not self.halt.is_set():
            client = redis.Redis(port=self._port, decode_responses=True, socket_timeout=2, protocol=2)
            try:
                with client.pubsub(ignore_subscribe_messages=True) as pubsub:
                    pubsub.subscribe(f"{KEYS}ended")
                    while not self.halt.is_set():
                        message = pubsub.get_message(timeout=0.2)
                        if message:
                            self.heard[message["data"]] += 1
            except (redis.RedisError, OSError):
                time.sleep(0.1)
            finally:
                client.close()
