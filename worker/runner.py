"""Runs one job: claim it in the store, generate on the engine, write its end to the store."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import structlog
import tenacity

from shared.cache import cache_key, cacheable
from shared.errors import EngineStoppedError, SmartTextGenError, StoreUnavailableError
from shared.job import Job, JobError, JobRef, JobSpec, JobStatus, Outcome, Usage
from shared.logprobs import unpack
from shared.spans import NoTraces, Span, Traces
from shared.store.events import Said, entry_of
from shared.store.protocol import Claim, Finished, Hint, JobStore, Stop
from worker.engine.protocol import Delta, Engine, EngineRequest, EngineResult, Generation
from worker.metrics import Watch, WorkerMetrics
from worker.prompts import Prompt, PromptBuilder
from worker.publisher import Publisher, Speech
from worker.results import outcome_of, sampling_of

P = ParamSpec("P")
T = TypeVar("T")

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

STORE_PATIENCE_S = 600.0
"""How long an end that is known is offered to a Redis which is away, before it is given up."""
LAST_PATIENCE_S = 10.0
"""The same for a worker that is told to leave: its lease runs out, and its jobs run elsewhere."""


class StorePatience:
    """Calls an operation of the store again and again while Redis is away. Short once ``close`` was called."""

    def __init__(self) -> None:
        self._closed_at: float | None = None

    def close(self) -> None:
        self._closed_at = time.monotonic()

    def __call__(self, operation: Callable[P, T]) -> Callable[P, T]:
        return tenacity.retry(
            retry=tenacity.retry_if_exception_type(StoreUnavailableError),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=3),
            stop=self._over,
            reraise=True,
        )(operation)

    def _over(self, state: tenacity.RetryCallState) -> bool:
        if self._closed_at is not None and time.monotonic() - self._closed_at > LAST_PATIENCE_S:
            return True
        return time.monotonic() - state.start_time > STORE_PATIENCE_S


@dataclass(slots=True)
class _Attempt:
    """A job that this process runs now, and what it says. ``generation`` is None until the engine has it."""

    number: int
    watch: Watch
    speech: Speech
    generation: Generation | None = None
    stopped: Stop | None = None


class Runner:
    """Runs jobs, each in its caller's thread; any number at the same time.

    send: called with the hints that an operation of the store hands back; may raise nothing. model: the public name of the
    one that the engine runs. metrics: what is told of the attempts; default: nobody asks. log_prompts: prompts and answers go
    into the logs.
    """

    def __init__(
        self,
        store: JobStore,
        engine: Engine,
        prompts: PromptBuilder,
        worker: str,
        send: Callable[[Sequence[Hint]], None],
        model: str,
        publisher: Publisher,
        metrics: WorkerMetrics | None = None,
        *,
        log_prompts: bool = False,
        traces: Traces | None = None,
    ) -> None:
        self._store = store
        self._engine = engine
        self._prompts = prompts
        self._worker = worker
        self._send = send
        self._model = model
        self._log_prompts = log_prompts
        self._traces = traces or NoTraces()
        self._metrics = metrics or WorkerMetrics(model)
        self._publisher = publisher
        self._lock = threading.Lock()
        self._attempts: dict[JobRef, _Attempt] = {}
        self._closed = False
        self._patiently = StorePatience()

    def run(self, ref: JobRef) -> None:
        """Do what the hint says, if there still is something to do. Raises nothing: in the threads pool whatever leaves
        a task (SystemExit above all) takes its slot along for ever."""
        with structlog.contextvars.bound_contextvars(job_id=ref.id, tenant=ref.tenant):
            try:
                self._run(ref)
            except BaseException:
                log.exception("job not brought to its end")

    def _run(self, ref: JobRef) -> None:
        if self._closed:
            self._send([Hint(ref, self._model)])
            return
        claim = self._patiently(self._store.claim)(ref, self._worker, uuid.uuid4().hex)
        if claim is None:
            log.info("hint without work")
            return
        job = claim.job
        attempt = _Attempt(job.attempt, self._metrics.claimed(job), self._publisher.open(ref, job.attempt))
        with self._lock:
            self._attempts[ref] = attempt
        try:
            with structlog.contextvars.bound_contextvars(request_id=claim.job.request_id, attempt=job.attempt):
                self._bring_to_its_end(claim, attempt)
        finally:
            attempt.speech.close()
            with self._lock:
                self._attempts.pop(ref, None)

    def _bring_to_its_end(self, claim: Claim, attempt: _Attempt) -> None:
        job = claim.job
        span = self._begin_span(job)
        try:
            outcome = self._generate(claim, attempt)
        except EngineStoppedError:
            self._hand_back(job, attempt)
            span.end(end="handed_back")
            return
        except SmartTextGenError as error:
            outcome = _failure(error.code, error.message, retryable=error.retryable)
        except BaseException:
            log.exception("generation failed")
            outcome = _failure("internal_error", "The worker failed while running this job.", retryable=True)
        said = _whole(job, outcome) if outcome.cached else attempt.speech.close()
        verdict, hints = self._patiently(self._store.finish)(job.ref, self._worker, job.attempt, outcome, said)
        attempt.watch.ended(outcome, accepted=verdict is Finished.ACCEPTED)
        span.end(
            failed=outcome.status is JobStatus.FAILED,
            end=outcome.status.value if verdict is Finished.ACCEPTED else "fenced",
            cached=outcome.cached,
            prompt_tokens=outcome.usage.prompt_tokens,
            completion_tokens=outcome.usage.completion_tokens,
        )
        self._send(hints)
        log.info(
            "job ended",
            status=outcome.status,
            verdict=verdict,
            cached=outcome.cached,
            **({"code": outcome.error.code} if outcome.error else {}),
            **(_texts(job, outcome) if self._log_prompts else {}),
        )

    def _begin_span(self, job: Job) -> Span:
        """Of the attempt; and the wait before a first one, which is over."""
        about: dict[str, Any] = {"job_id": job.id, "attempt": job.attempt, "model": job.spec.model}
        if job.attempt == 1:
            self._traces.start("queue", "internal", job.traceparent, start_ms=job.created_at, **about).end(
                end_ms=job.started_at
            )
        return self._traces.start("generate", "consumer", job.traceparent, **about)

    def _generate(self, claim: Claim, attempt: _Attempt) -> Outcome:
        job = claim.job
        prompt = self._prompts.build(job.spec, claim.history)
        key = self._cache_key(job.spec, prompt)
        hit = self._cached(job.ref.tenant, key) if key else None
        if key:
            attempt.watch.looked_up(hit=hit is not None)
        if hit:
            return hit
        attempt.watch.submitted()
        request = EngineRequest(
            prompt.ids,
            sampling_of(job.spec, prompt),
            adapter=job.spec.adapter,
            reuse_scope=job.ref.tenant,
            shared_tokens=prompt.shared_tokens,
        )
        if prompt.echo:
            for index in range(job.spec.n):
                attempt.speech.say(Delta(index, prompt.echo, 0))
        generation = self._engine.submit(request, attempt.speech.say)
        with self._lock:
            attempt.generation = generation
            stopped = attempt.stopped
        if stopped:
            generation.cancel()
        result = self._result(job.ref, generation, job.spec.execution_timeout_s)
        attempt.watch.generated(result.first_token_s)
        return outcome_of(result, prompt, key, attempt.stopped, self._engine.info.system_fingerprint)

    def _result(self, ref: JobRef, generation: Generation, timeout_s: int | None) -> EngineResult:
        """Wait for the end; a job that outlasts its own limit is stopped within a step of it."""
        try:
            return generation.result(timeout_s)
        except TimeoutError:
            self.stop(ref, Stop.EXPIRED)
            return generation.result()

    def _cached(self, tenant: str, key: str) -> Outcome | None:
        """A stored result as this job's own. Without Redis there is none: the cache saves work, it must not fail a job."""
        try:
            hit = self._store.cached(tenant, key)
        except StoreUnavailableError:
            log.warning("no look at the cache")
            return None
        if hit is None:
            return None
        usage = Usage(hit.usage.prompt_tokens, hit.usage.completion_tokens, hit.usage.prompt_tokens)
        return Outcome(
            JobStatus.SUCCEEDED,
            hit.choices,
            usage,
            cached=True,
            cache_key=key,
            system_fingerprint=hit.system_fingerprint,
            echo=hit.echo,
        )

    def _cache_key(self, spec: JobSpec, prompt: Prompt) -> str | None:
        if not cacheable(spec):
            return None
        return cache_key(spec, contents=self._engine.info.contents, prompt=prompt.ids, stop=prompt.stop)

    def _hand_back(self, job: Job, attempt: _Attempt) -> None:
        """The engine stops under a job that is as good as new: back to its place in the queue."""
        self._send(self._patiently(self._store.release)(job.ref, self._worker, job.attempt) or ())
        attempt.watch.handed_back()
        log.info("job handed back")

    def close(self) -> None:
        """Claim nothing any more; what runs goes on."""
        self._closed = True
        self._patiently.close()

    def running(self) -> list[tuple[JobRef, int]]:
        """The jobs that this process runs now, with their attempts."""
        with self._lock:
            return [(ref, attempt.number) for ref, attempt in self._attempts.items()]

    def stop(self, ref: JobRef, why: Stop) -> None:
        """Stop a running job at the engine's next step; its partial answer becomes its end. Again: nothing more."""
        with self._lock:
            attempt = self._attempts.get(ref)
            if attempt is None or attempt.stopped:
                return
            attempt.stopped = why
            attempt.watch.stopped()
            generation = attempt.generation
        if generation is not None:
            generation.cancel()


def _whole(job: Job, outcome: Outcome) -> Said:
    """A stored result as if it was just said."""
    before = outcome.echo.text if outcome.echo else ""
    entries = tuple(
        entry_of(choice.index, before + choice.text, unpack(choice.logprobs) if choice.logprobs else ())
        for choice in outcome.choices
        if before or choice.text or choice.logprobs
    )
    return Said(job.ref, job.attempt, 0, entries)


def _texts(job: Job, outcome: Outcome) -> dict[str, object]:
    """What was asked and answered: for logs where an operator wants that."""
    return {"prompt": job.spec.prompt, "outputs": [choice.text for choice in outcome.choices]}


def _failure(code: str, message: str, *, retryable: bool) -> Outcome:
    return Outcome(JobStatus.FAILED, error=JobError(code, message, retryable))
