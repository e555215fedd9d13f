"""The courier's loop: take what is due, send it, report; many at a time, and no receiver in the way of another."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import ParamSpec, TypeVar

import structlog

from shared.errors import StoreUnavailableError
from shared.spans import NoTraces, Traces
from shared.webhooks import Attempt, Errand, Taken, Verdict, WebhookStore
from worker.courier.metrics import TOO_LATE, CourierMetrics
from worker.courier.payload import render
from worker.courier.schedule import Answer, Schedule
from worker.courier.sender import Sender
from worker.courier.signing import signature_headers

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

LOOK_S = 1.0
"""Longest time between two looks for work: also how often a courier says that it is there."""
AWAY_PAUSE_S = 0.5
STORE_THREADS = 16
DRAIN_S = 3.0
"""How long attempts that are under way get at shutdown; then they are handed back."""
MOST_SLOW_LANES = 1_000
DELETED = "What it tells of was deleted."


class Courier:
    """Delivers what the store says is due. ``concurrency``: attempts at a time. ``in_lane``: of these, to one receiver; one
    whose latest attempt failed gets one at a time, so that those that hang cannot take all the room."""

    def __init__(
        self,
        name: str,
        store: WebhookStore,
        sender: Sender,
        schedule: Schedule,
        *,
        concurrency: int,
        in_lane: int,
        report_patience_s: float,
        metrics: CourierMetrics | None = None,
        traces: Traces | None = None,
    ) -> None:
        self.name = name
        self._store = store
        self._sender = sender
        self._schedule = schedule
        self._concurrency = concurrency
        self._in_lane = in_lane
        self._report_patience_s = report_patience_s
        self._metrics = metrics or CourierMetrics()
        self._traces = traces or NoTraces()
        self._threads = ThreadPoolExecutor(STORE_THREADS, "store")
        self._news = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._lanes: Counter[str] = Counter()
        self._slow: OrderedDict[str, None] = OrderedDict()

    async def run(self, stop: asyncio.Event, hurry: asyncio.Event) -> None:
        """Deliver until ``stop``, then let what is under way finish for a moment (none with ``hurry``) and hand back the
        rest."""
        ended = threading.Event()
        listener = threading.Thread(target=self._listen, args=(asyncio.get_running_loop(), ended), daemon=True)
        listener.start()
        try:
            while not stop.is_set():
                self._news.clear()
                await self._wait(stop, await self._look())
        finally:
            ended.set()
            await self._drain(hurry)
            with suppress(StoreUnavailableError):
                await self._call(self._store.leave, self.name)
            self._threads.shutdown(wait=False)

    def _listen(self, loop: asyncio.AbstractEventLoop, ended: threading.Event) -> None:
        def news() -> None:
            loop.call_soon_threadsafe(self._news.set)

        while not ended.is_set():
            try:
                self._store.listen(news, ended)
            except StoreUnavailableError:
                ended.wait(AWAY_PAUSE_S)
            except RuntimeError:  # the loop is closed
                return

    async def _look(self) -> float:
        """Take what there is room for. Returns the seconds until the next look."""
        room = self._concurrency - len(self._tasks)
        try:
            taken: Taken = await self._call(self._store.take, self.name, room, self._room_in_lanes())
        except StoreUnavailableError as error:
            log.warning("no deliveries for now", reason=error.message)
            return AWAY_PAUSE_S
        for errand in taken.errands:
            self._lanes[errand.lane] += 1
            task = asyncio.create_task(self._deliver(errand))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if len(self._tasks) >= self._concurrency or taken.next_in_s is None:
            return LOOK_S
        return min(LOOK_S, taken.next_in_s)

    def _room_in_lanes(self) -> dict[str, int]:
        lanes = {lane: self._limit(lane) - count for lane, count in self._lanes.items()}
        return {lane: max(0, room) for lane, room in (dict.fromkeys(self._slow, 1) | lanes).items()}

    def _limit(self, lane: str) -> int:
        return 1 if lane in self._slow else self._in_lane

    async def _wait(self, stop: asyncio.Event, seconds: float) -> None:
        waits = [asyncio.ensure_future(event.wait()) for event in (stop, self._news)]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for each in waits:
            each.cancel()

    async def _deliver(self, errand: Errand) -> None:
        started = time.monotonic()
        try:
            attempt = await self._attempt(errand)
        except asyncio.CancelledError:
            attempt = Attempt(Verdict.BACK)
        except StoreUnavailableError:
            attempt = Attempt(Verdict.BACK)  # nothing was sent
        except Exception:
            log.exception("delivery failed", delivery=errand.delivery.id)
            attempt = self._schedule.judge(Answer(error="Something went wrong on our side."), errand.step)
        self._remember(errand.lane, attempt)
        held = await self._report(errand, attempt)
        was_full = len(self._tasks) >= self._concurrency or self._lanes[errand.lane] >= self._limit(errand.lane)
        self._lanes[errand.lane] -= 1
        if self._lanes[errand.lane] <= 0:
            del self._lanes[errand.lane]
        if was_full:
            self._news.set()
        verdict = attempt.verdict.value if held else TOO_LATE
        self._metrics.attempted(verdict, time.monotonic() - started, time.time() - errand.message.at / 1000)
        log.info(
            "webhook",
            verdict=verdict,
            delivery=errand.delivery.id,
            message=errand.message.id,
            type=errand.delivery.type,
            tenant=errand.delivery.tenant,
            job_id=errand.delivery.job_id,
            batch_id=errand.delivery.batch_id,
            attempt=errand.delivery.attempts,
            status=attempt.response_status,
            error=attempt.error,
            duration_ms=round((time.monotonic() - started) * 1000, 1),
            **{name.lower().replace("-", "_").removeprefix("x_"): value for name, value in errand.headers.items()},
        )

    def _remember(self, lane: str, attempt: Attempt) -> None:
        if attempt.verdict is Verdict.DELIVERED:
            self._slow.pop(lane, None)
        elif attempt.verdict is not Verdict.BACK:
            self._slow[lane] = None
            self._slow.move_to_end(lane)
            if len(self._slow) > MOST_SLOW_LANES:
                self._slow.popitem(last=False)

    async def _attempt(self, errand: Errand) -> Attempt:
        payload, secrets = errand.message.payload, errand.secrets
        if payload is None:
            payload = await self._call(self._store.keep, errand, render(errand.message))
            if payload is None:
                return Attempt(Verdict.FAILED, error=DELETED)
        if not secrets:  # the built-in endpoint, at its first use
            endpoint = await self._call(self._store.get, errand.delivery.tenant, errand.delivery.endpoint_id)
            secrets = (endpoint.secret,)
        signed = signature_headers(errand.message.id, payload, secrets, time.time())
        span = self._traces.start(
            "webhook",
            "client",
            errand.headers.get("traceparent"),
            job_id=errand.delivery.job_id,
            delivery_id=errand.delivery.id,
            type=errand.delivery.type,
        )
        under = {"traceparent": span.traceparent} if span.traceparent else {}
        answer = await self._sender.send(errand.delivery.url, payload.encode(), {**errand.headers, **under, **signed})
        attempt = self._schedule.judge(answer, errand.step)
        delivered = attempt.verdict is Verdict.DELIVERED
        span.end(failed=not delivered, status=attempt.response_status, verdict=attempt.verdict.value)
        return attempt

    async def _report(self, errand: Errand, attempt: Attempt) -> bool:
        """Say it, also to a store that is away for a while: for as long as the lease would be ours."""
        until = time.monotonic() + self._report_patience_s
        while True:
            try:
                return await self._call(self._store.report, errand, attempt)
            except StoreUnavailableError as error:
                if time.monotonic() > until or attempt.verdict is Verdict.BACK:
                    log.warning(
                        "attempt not reported; it will be made again", delivery=errand.delivery.id, reason=error.message
                    )
                    return False
                await asyncio.sleep(AWAY_PAUSE_S)

    async def _drain(self, hurry: asyncio.Event) -> None:
        tasks = set(self._tasks)
        if not tasks:
            return
        waiting = asyncio.ensure_future(asyncio.wait(tasks))
        await asyncio.wait(
            {waiting, asyncio.ensure_future(hurry.wait())}, timeout=DRAIN_S, return_when=asyncio.FIRST_COMPLETED
        )
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=DRAIN_S)

    async def _call(self, operation: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """An operation of the store, in a thread: its client blocks."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: operation(*args, **kwargs))
