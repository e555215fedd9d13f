"""The hub: all open streams of a process on one thread, which hears from Redis and writes to the clients' sockets.

A stream has a cursor, the number of the last event it wrote. A published event that follows the cursor is written as it
comes. Anything else (a gap, an end, a fresh subscription, a client that reads again) makes the hub look into the job's log
from the cursor on. And every open stream's job is looked at every few seconds, so that a message that got lost delays an
event but loses none. So nothing is ever kept here for a client: what it has not read is in Redis.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import structlog
from redis.asyncio import Redis

from api.errors import ServerDrainingError, SlowReaderError, StreamTimeoutError
from api.streaming.news import News
from api.streaming.outlet import Outlet, prepare
from api.streaming.places import Place, Places
from api.streaming.sse import render
from shared.errors import GoneError, NotFoundError, StoreUnavailableError, StreamCursorError, StreamGoneError
from shared.job import JobRef
from shared.store.events import Event, JobLog
from shared.store.protocol import JobStore

log = structlog.get_logger(__name__)

T = TypeVar("T")

PAGE = 500
"""Logged events that one look brings."""
LOOK_S = 5.0
MOST_LOOKS = 200
"""Jobs whose last event is asked for in one call."""
RETRY_S = 0.5
READERS = 4
DRAIN_S = 3.0


@dataclass(frozen=True, slots=True)
class Opening:
    """A stream as its request leaves it: the events that were there already, rendered, up to ``cursor``. ``complete``: the
    end of the job is among them. ``head``: what goes before the body."""

    ref: JobRef
    cursor: int
    place: Place
    body: bytes
    complete: bool
    head: bytes = b""
    chunked: bool = False

    def framed(self, head: bytes, *, chunked: bool) -> Opening:
        return replace(self, head=head, chunked=chunked)


@dataclass(frozen=True, slots=True)
class Manners:
    """Seconds: between pings, of a client that reads nothing, and of a whole stream."""

    ping_s: float = 15.0
    stall_s: float = 10.0
    most_s: float = 3_600.0


@dataclass(eq=False, slots=True)
class _Job:
    """A job that is being streamed."""

    ref: JobRef
    channel: str
    looked_at: float
    outlets: set[Outlet] = field(default_factory=set)
    looking: bool = False
    look_again: bool = False


class Hub:
    """Open streams. ``take_place``, ``adopt`` and ``drain`` from any thread; the rest runs on the hub's, which starts with
    the first stream. connect: makes the client whose one connection hears the channels, on the hub's thread."""

    def __init__(
        self, store: JobStore, connect: Callable[[], Redis], prefix: str, places: Places, manners: Manners | None = None
    ) -> None:
        self._store = store
        self._connect = connect
        self._prefix = prefix
        self._places = places
        self._manners = manners or Manners()
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining = False
        self._readers = ThreadPoolExecutor(READERS, "stream-reader")
        # of the hub's thread
        self._jobs: dict[str, _Job] = {}
        self._stale: set[_Job] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._outlets: set[Outlet] = set()

    # --- any thread

    def take_place(self, key_id: str) -> Place:
        """A stream is to be opened. Raises: StreamLimitError, StreamsFullError, ServerDrainingError."""
        if self._draining:
            raise ServerDrainingError
        return self._places.take(key_id)

    def watch(self, changed: Callable[[int], None]) -> None:
        """See ``Places.watch``."""
        self._places.watch(changed)

    def adopt(self, sock: socket.socket, opening: Opening) -> None:
        """Stream into this socket from now on; it belongs to the hub."""
        prepare(sock, 3 * self._manners.ping_s)
        self._running_loop().call_soon_threadsafe(lambda: self._spawn(self._adopt(sock, opening)))

    def drain(self) -> None:
        """End all streams, and take no more; returns when the clients have been told, or after a few seconds."""
        with self._lock:
            self._draining = True
            loop = self._loop
        if loop is not None:
            asyncio.run_coroutine_threadsafe(self._drain(), loop).result()

    @property
    def open(self) -> int:
        """Streams open now."""
        return self._places.taken

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._run, args=(self._loop,), name="streams", daemon=True).start()
            return self._loop

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        self._stale_added = asyncio.Event()
        self._news = News(self._connect(), self._heard, self._joined)
        for forever in (self._news.run(), self._tick(), self._check()):
            self._spawn(forever, loop)
        loop.run_forever()

    # --- opening and closing

    async def _adopt(self, sock: socket.socket, opening: Opening) -> None:
        outlet = Outlet(self, opening.ref, opening.cursor, opening.place, chunked=opening.chunked)
        self._outlets.add(outlet)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: outlet, sock)
        except OSError:
            self.gone(outlet)
            return
        outlet.head(opening.head)
        outlet.write(opening.body)
        if opening.complete:
            outlet.end()
        elif self._draining:
            outlet.fail(ServerDrainingError())
        else:
            self._follow(outlet)

    def _follow(self, outlet: Outlet) -> None:
        channel = f"{self._prefix}events:{outlet.ref}"
        job = self._jobs.get(channel)
        if job is None:
            job = self._jobs[channel] = _Job(outlet.ref, channel, self._now())
            self._spawn(self._news.follow(channel))  # joined() then looks for what came before
        else:
            self._suspect([job])
        job.outlets.add(outlet)

    def gone(self, outlet: Outlet) -> None:
        outlet.place.give_back()
        self._outlets.discard(outlet)
        channel = f"{self._prefix}events:{outlet.ref}"
        job = self._jobs.get(channel)
        if job is None:
            return
        job.outlets.discard(outlet)
        if not job.outlets:
            del self._jobs[channel]
            self._stale.discard(job)
            self._spawn(self._news.leave(channel))

    async def _drain(self) -> None:
        for outlet in list(self._outlets):
            outlet.fail(ServerDrainingError())
        deadline = self._now() + DRAIN_S
        while self._now() < deadline and not all(outlet.flushed for outlet in self._outlets):  # noqa: ASYNC110  # asyncio tells nobody of that
            await asyncio.sleep(0.02)

    # --- events

    def _heard(self, channel: str, message: str) -> None:
        job = self._jobs.get(channel)
        if job is None:
            return
        event = Event.parse(message)
        data = render(event) if event.logged else b""
        behind = False
        for outlet in job.outlets:
            if not outlet.ready or 0 < event.number <= outlet.cursor:
                continue
            if data and event.number == outlet.cursor + 1:
                outlet.write(data, event.number)
            else:
                behind = True
        if behind:
            self._look(job)

    def _joined(self, channel: str) -> None:
        if job := self._jobs.get(channel):
            self._suspect([job])

    def resumed(self, outlet: Outlet) -> None:
        if job := self._jobs.get(f"{self._prefix}events:{outlet.ref}"):
            self._look(job)

    def _look(self, job: _Job) -> None:
        """Read the job's log and write what follows; one look at a job at a time."""
        if job.looking:
            job.look_again = True
            return
        job.looking = True
        self._spawn(self._look_until_seen(job))

    async def _look_until_seen(self, job: _Job) -> None:
        try:
            while asked := {outlet: outlet.cursor for outlet in job.outlets if outlet.ready}:
                job.look_again = False
                found = await self._read(self._store.log, job.ref, min(asked.values()), PAGE)
                for outlet, cursor in asked.items():
                    if outlet.ready:
                        self._catch_up(outlet, cursor, found)
                if len(found.entries) < PAGE and not job.look_again:
                    return
        except StoreUnavailableError:
            self._suspect([job])
        except (NotFoundError, GoneError) as error:
            for outlet in list(job.outlets):
                outlet.fail(error if isinstance(error, NotFoundError) else StreamGoneError())
        finally:
            job.looking = False

    def _catch_up(self, outlet: Outlet, asked: int, found: JobLog) -> None:
        """Write what follows. ``asked``: the cursor when the log was read; published events may have moved it since."""
        if asked <= found.last < outlet.cursor:
            return
        events: list[Event] = []
        try:
            events.extend(found.after(outlet.cursor))
        except (StreamCursorError, StreamGoneError):  # trimmed, or Redis lost what it had told
            outlet.fail(StreamGoneError())
            return
        if events:
            outlet.write(b"".join(render(event, found.job) for event in events), events[-1].number)
        if found.job.status.ended and outlet.cursor == found.last:
            outlet.end()

    # --- what is done again and again

    def _suspect(self, jobs: Iterable[_Job]) -> None:
        """Something may have been missed of these."""
        self._stale.update(jobs)
        self._stale_added.set()

    async def _check(self) -> None:
        """Look at the jobs whose streams are not where their log is."""
        while True:
            await self._stale_added.wait()
            if not self._stale:
                self._stale_added.clear()
                continue
            jobs = [self._stale.pop() for _ in range(min(len(self._stale), MOST_LOOKS))]
            try:
                numbers = await self._read(self._store.latest, [job.ref for job in jobs])
            except StoreUnavailableError:
                self._suspect(job for job in jobs if job.outlets)
                await asyncio.sleep(RETRY_S)
                continue
            for job, number in zip(jobs, numbers, strict=True):
                job.looked_at = self._now()
                if any(outlet.ready and outlet.cursor != number for outlet in job.outlets):
                    self._look(job)

    async def _tick(self) -> None:
        manners = self._manners
        while True:
            await asyncio.sleep(min(1.0, manners.ping_s / 4, manners.stall_s / 4, manners.most_s / 4))
            now = self._now()
            for outlet in list(self._outlets):
                self._mind(outlet, now)
            self._suspect([job for job in self._jobs.values() if now - job.looked_at > LOOK_S])

    def _mind(self, outlet: Outlet, now: float) -> None:
        if outlet.ending:
            return
        if outlet.stalled_since is not None:
            if outlet.stalled_for(now) > self._manners.stall_s:
                outlet.fail(SlowReaderError())
        elif now - outlet.opened_at > self._manners.most_s:
            outlet.fail(StreamTimeoutError())
        elif now - outlet.wrote_at >= self._manners.ping_s:
            outlet.ping()

    # --- the loop

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _read(self, operation: Callable[..., T], *args: object) -> T:
        """Ask the store, without holding up the loop. Raises: what it raises."""
        try:
            answer = asyncio.get_running_loop().run_in_executor(self._readers, operation, *args)
        except RuntimeError as error:  # the process is ending, and starts no threads any more
            raise asyncio.CancelledError from error
        return await answer

    def _spawn(self, work: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop | None = None) -> None:
        task = (loop or asyncio.get_running_loop()).create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("streaming failed", exc_info=error)
