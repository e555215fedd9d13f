"""The engine's loop of three verbs: schedule, step, emit. It runs on one thread; callers leave it mail."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import AbstractContextManager

from shared.errors import EngineStoppedError
from worker.engine.failures import generation_error, judge
from worker.engine.generation import PendingGeneration
from worker.engine.ledger import ledger_for
from worker.engine.protocol import Delta, EngineRequest, EngineStats, FinishReason, OnDelta
from worker.engine.runner import LoadedModel
from worker.engine.scheduler import Scheduler, StepPlan
from worker.engine.sequence import Row, RowGroup
from worker.engine.tally import Tally

logger = logging.getLogger(__name__)

_MOST_FAILED_STEPS = 8  # in a row; a model whose probe works and whose steps do not would fail every job for ever


class EngineLoop:
    """All the requests of one model. ``submit``, ``stop`` and ``stats`` from any thread, ``run`` on the engine's."""

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        self._ledger = ledger_for(model.info)
        self._scheduler = Scheduler(model.info.slots, model.info.token_budget, self._ledger, model.runner)
        self._failed_steps = 0
        self._tally = Tally(model.info.slots)
        # Guards the fields after it: the mailbox between callers and the loop.
        self._mail = threading.Condition()
        self._submitted: deque[RowGroup] = deque()
        self._canceled: list[RowGroup] = []
        self._stop_at: float | None = None
        self.dead = False

    # ---- callers, any thread

    def submit(self, request: EngineRequest, on_delta: OnDelta | None) -> PendingGeneration:
        """Raises: ContextLengthError (more than the memory can ever hold), EngineStoppedError."""
        self._ledger.check(request)
        handle = PendingGeneration()
        tokenization = self.model.tokenization
        group = RowGroup(request, handle, on_delta, tokenization.decode, tokenization.token_text)
        handle.when_canceled(lambda: self._post_cancel(group))
        with self._mail:
            if self.dead or self._stop_at is not None:
                raise EngineStoppedError()
            self._submitted.append(group)
            self._mail.notify()
        return handle

    def stop(self, drain_s: float) -> None:
        """End once nothing runs any more, or after ``drain_s`` seconds. What has not begun fails at once."""
        with self._mail:
            deadline = time.monotonic() + drain_s
            self._stop_at = deadline if self._stop_at is None else min(self._stop_at, deadline)
            self._mail.notify()

    def stats(self) -> EngineStats:
        return EngineStats(
            running=self._scheduler.running,
            waiting=len(self._scheduler.waiting) + len(self._submitted),
            steps=self._tally.steps,
            prompt_tokens=self._tally.prompt_tokens,
            generated_tokens=self._tally.generated_tokens,
            step_rows=tuple(self._tally.rows),
            token_gaps=self._tally.gaps(),
            kv_cache_usage=self._ledger.usage(),
            preemptions=self._scheduler.preemptions,
            reused=self.model.runner.reused(),
        )

    def _post_cancel(self, group: RowGroup) -> None:
        with self._mail:
            self._canceled.append(group)
            self._mail.notify()

    # ---- the engine's thread

    def run(self, context: AbstractContextManager[object]) -> None:
        """Until stopped, inside ``context``. Whatever ends it, nobody is left waiting."""
        try:
            with context:
                while (plan := self._schedule()) is not None:
                    tokens = self._step(plan)
                    if tokens is not None:
                        self._tally.count(plan, len(tokens))
                        self._emit(plan, tokens)
        except BaseException:
            logger.critical("The engine's loop died.", exc_info=True)
            self._end(EngineStoppedError("The engine has died."))
        else:
            self._end(EngineStoppedError())

    def _schedule(self) -> StepPlan | None:
        """Take the mail, obey cancellations and the deadline of a drain; None when it is time to end."""
        while True:
            self._take_mail()
            if self._stop_at is not None:
                self._fail_all([g for g in self._scheduler.waiting if not g.begun], EngineStoppedError())
                if self._scheduler.idle or time.monotonic() >= self._stop_at:
                    return None
            if not self._scheduler.idle:
                return self._scheduler.plan()

    def _take_mail(self) -> None:
        with self._mail:
            while self._scheduler.idle and not (self._submitted or self._canceled or self._stop_at is not None):
                self._mail.wait()
            submitted, self._submitted = self._submitted, deque()
            canceled, self._canceled = self._canceled, []
        for group in submitted:
            self._accept(group)
        for group in canceled:
            self._cancel(group)

    def _accept(self, group: RowGroup) -> None:
        try:
            for row in group.rows:
                self.model.runner.prepare(row)
        except Exception as error:  # noqa: BLE001  # this request's caller gets it
            self._fail(group, generation_error("It could not be prepared", error))
        else:
            self._scheduler.add(group)

    def _cancel(self, group: RowGroup) -> None:
        for row in group.rows:
            if not group.ended and row.finish_reason is None:
                self._tell(group, row.finish(FinishReason.CANCELED))
        self._end_if_finished(group)

    def _step(self, plan: StepPlan) -> list[int | Exception] | None:
        """The sampled tokens, or None after a step that failed: whoever is to blame has failed too, and the engine goes on."""
        try:
            tokens = self.model.runner.step(plan)
        except Exception as error:
            logger.exception("A step of %d rows failed.", len(plan.rows))
            verdict = judge(self._scheduler, plan, error)
            self._fail_all(verdict.convicted, verdict.error)
            self._failed_steps += not verdict.eased
            if self._failed_steps >= _MOST_FAILED_STEPS:
                raise
            self.model.runner.recover()
            return None
        self._failed_steps = 0
        self._scheduler.advance(plan)
        return tokens

    def _emit(self, plan: StepPlan, tokens: list[int | Exception]) -> None:
        for row, token in zip(plan.sampled, tokens, strict=True):
            # A sibling of this row may have failed the whole group, or finished earlier by a cancel.
            if row.group.ended or row.finish_reason is not None:
                continue
            if isinstance(token, Exception):
                self._fail(row.group, generation_error("No token could be chosen", token))
                continue
            self._take_token(row, token)

    def _take_token(self, row: Row, token: int) -> None:
        try:
            delta = row.accept(token, self.model.end_tokens)
        except Exception as error:  # noqa: BLE001  # this request's caller gets it
            self._fail(row.group, generation_error("Its tokens could not be turned into text", error))
            return
        self._tell(row.group, delta)
        if row.finish_reason is not None:
            self._scheduler.retire(row, sound=True)
            self._end_if_finished(row.group)

    def _tell(self, group: RowGroup, delta: Delta | None) -> None:
        if delta is None or group.on_delta is None:
            return
        try:
            group.on_delta(delta)
        except BaseException as error:  # noqa: BLE001  # the caller's code: not even a SystemExit of it may end the loop
            self._fail(group, generation_error("Its listener raised", error))

    def _end_if_finished(self, group: RowGroup) -> None:
        if group.finished and not group.ended:
            self._leave(group, sound=True)
            group.handle.complete(group.result())

    def _fail(self, group: RowGroup, error: Exception) -> None:
        if not group.ended:
            self._leave(group, sound=False)
            group.handle.fail(error)

    def _fail_all(self, groups: Iterable[RowGroup], error: Exception) -> None:
        for group in groups:
            self._fail(group, error)

    def _leave(self, group: RowGroup, *, sound: bool) -> None:
        group.ended = True
        self._scheduler.drop(group, sound=sound)
        for row in group.rows:
            self.model.runner.release(row)

    def _end(self, error: Exception) -> None:
        """Nobody waits on an engine that has ended: everything in it and in its mail fails."""
        with self._mail:
            self.dead = True
            submitted, self._submitted = self._submitted, deque()
        groups = [*self._scheduler.groups, *submitted]
        for group in groups:
            group.ended = True
            group.handle.fail(error)
        for group in groups:  # last, since whatever ended the loop may spoil this too
            self._scheduler.drop(group, sound=False)
