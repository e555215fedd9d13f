"""The supervisor: starts the parts in order, starts crashed ones again, gives up on hopeless ones, ends all in order.

One thread calls it; nothing in it blocks for longer than a moment. Readiness is asked in threads of its own.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from smarttextgen.launcher.errors import PartFailedError
from smarttextgen.launcher.parts import HOPELESS_EXITS, STOP_RANK, Event, Kind, PartState, Patience
from smarttextgen.launcher.process import Part

STOP_POLL_S = 0.05
ROTATE_EVERY_S = 30.0


class Supervisor:
    """Runs ``parts``; ``on_event`` hears of every change of a part's state."""

    def __init__(self, parts: Iterable[Part], on_event: Callable[[Event], None], patience: Patience) -> None:
        self.parts = tuple(parts)
        self._on_event = on_event
        self._patience = patience
        self._rotate_at = 0.0
        self._probes = ThreadPoolExecutor(max_workers=max(1, len(self.parts)), thread_name_prefix="probe")

    @property
    def all_ready(self) -> bool:
        return all(part.state is PartState.READY for part in self.parts)

    def is_ready(self, kind: Kind) -> bool:
        """Whether every part of that kind is ready (true where there is none)."""
        return all(part.state is PartState.READY for part in self.parts if part.spec.kind is kind)

    def step(self) -> None:
        """See who has died, start who may start, ask who starts whether it is ready.

        Raises: PartFailedError when a part is hopeless.
        """
        self._rotate_logs_if_due()
        for part in self.parts:
            if (code := part.exit_code()) is not None:
                self._exited(part, code)
            elif part.state in (PartState.WAITING, PartState.RESTARTING):
                self._start_if_due(part)
            elif part.state is PartState.STARTING:
                self._ask_if_ready(part)

    def _rotate_logs_if_due(self) -> None:
        if time.monotonic() < self._rotate_at:
            return
        self._rotate_at = time.monotonic() + ROTATE_EVERY_S
        for part in self.parts:
            part.rotate_log()

    def stop(self, kill_now: Callable[[], bool]) -> None:
        """End every part, in the order of STOP_RANK. Once ``kill_now()`` says so, end all at once."""
        for rank in sorted(set(STOP_RANK.values())):
            parts = [part for part in self.parts if STOP_RANK[part.spec.kind] == rank]
            running = [part for part in parts if part.pid is not None]
            for part in running:
                part.terminate()
                self._tell(part, PartState.STOPPING)
            self._await_end(running, kill_now)
        self._probes.shutdown(wait=False, cancel_futures=True)

    def _await_end(self, running: list[Part], kill_now: Callable[[], bool]) -> None:
        asked_at = time.monotonic()
        while running:
            for part in list(running):
                overdue = time.monotonic() - asked_at > part.spec.stop_grace_s
                if part.exit_code() is None and not overdue and not kill_now():
                    continue
                if part.pid is not None:
                    part.kill()
                self._tell(part, PartState.STOPPED, "killed: it did not end in time" if overdue else "")
                running.remove(part)
            if running:
                time.sleep(STOP_POLL_S)

    def _start_if_due(self, part: Part) -> None:
        if time.monotonic() < part.start_at or not all(self.is_ready(kind) for kind in part.spec.needs):
            return
        try:
            part.start()
        except OSError as error:
            self._crashed(part, f"it cannot be run: {error}")
        else:
            self._tell(part, PartState.STARTING)

    def _ask_if_ready(self, part: Part) -> None:
        if part.ever_ready and part.crashes and time.monotonic() - part.crashes[-1] < part.spec.lingers_s:
            return
        if part.probe is None or (part.probe.done() and not part.probe.result()):
            if time.monotonic() - part.started_at > part.spec.start_timeout_s:
                raise self._failed(part, f"{part.spec.name} was not ready after {part.spec.start_timeout_s:.0f} s.")
            part.probe = self._probes.submit(part.spec.is_ready)
        elif part.probe.done():
            part.ever_ready = True
            part.ready_after_s = time.monotonic() - part.started_at
            self._tell(part, PartState.READY, f"{part.ready_after_s:.1f} s")

    def _exited(self, part: Part, code: int) -> None:
        reason = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        if code in HOPELESS_EXITS and not part.ever_ready:
            raise self._failed(part, f"{part.spec.name} cannot start: {HOPELESS_EXITS[code]} ({reason}).")
        self._crashed(part, reason)

    def _crashed(self, part: Part, reason: str) -> None:
        now = time.monotonic()
        part.crashes.append(now)
        recent = sum(1 for when in part.crashes if now - when < self._patience.window_s)
        if not part.ever_ready and len(part.crashes) >= self._patience.crashes_before_ready:
            raise self._failed(part, f"{part.spec.name} crashed at every start ({recent} times): {reason}.")
        if recent >= self._patience.crashes_in_window:
            window = f"{self._patience.window_s:.0f} s"
            raise self._failed(part, f"{part.spec.name} crashed {recent} times within {window}: {reason}.")
        delay = self._patience.delay_s(recent)
        part.start_at = now + delay
        detail = f"{part.spec.name} crashed ({reason}); starting it again in {delay:.1f} s"
        self._tell(part, PartState.RESTARTING, detail, part.last_lines(8))

    def _failed(self, part: Part, message: str) -> PartFailedError:
        return PartFailedError(message, part=part.spec.name, last_lines=part.last_lines())

    def _tell(self, part: Part, state: PartState, detail: str = "", last_lines: tuple[str, ...] = ()) -> None:
        part.state = state
        self._on_event(Event(part.spec.name, state, detail, last_lines))
