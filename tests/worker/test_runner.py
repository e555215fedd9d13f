"""A job's way through the runner, on the echo engine and the store in memory."""

from __future__ import annotations

import threading
import time

import pytest

from shared.errors import GenerationError, StoreUnavailableError
from shared.job import JobRef, JobStatus
from shared.store.memory import MemoryStore
from shared.store.protocol import Hint, JobFilter, Stop
from tests.servers import until
from tests.worker.conftest import make_runner, submit
from worker.engine.protocol import Engine, EngineRequest
from worker.runner import Runner


def test_a_job_is_run_to_its_end(runner: Runner, store: MemoryStore):
    ref = submit(store, "hello", max_length=10)
    runner.run(ref)
    job = store.get(ref)
    assert job.status is JobStatus.SUCCEEDED
    assert job.output
    assert job.usage.completion_tokens == 10
    assert job.usage.prompt_tokens > 5
    assert job.choices[0].finish_reason == "length"
    assert runner.running() == []


def test_the_engine_learns_whose_text_it_is(
    runner: Runner, store: MemoryStore, echo: Engine, monkeypatch: pytest.MonkeyPatch
):
    asked: list[EngineRequest] = []
    submitting = echo.submit
    monkeypatch.setattr(echo, "submit", lambda request, say: asked.append(request) or submitting(request, say))
    runner.run(submit(store, "hello", tenant="rival"))
    (request,) = asked
    assert request.reuse_scope == "rival"
    assert 0 < request.shared_tokens < bytes(request.prompt).index(b"hello") + 1


def test_a_hint_without_work_does_nothing(runner: Runner, store: MemoryStore):
    ref = submit(store)
    runner.run(ref)
    before = store.get(ref)
    runner.run(ref)
    runner.run(JobRef("shop", "unknown"))
    assert store.get(ref) == before


def test_n_completions(runner: Runner, store: MemoryStore):
    ref = submit(store, n=3)
    runner.run(ref)
    assert [choice.index for choice in store.get(ref).choices] == [0, 1, 2]


def test_what_does_not_fit_the_context_fails_for_good(runner: Runner, store: MemoryStore):
    ref = submit(store, "x" * 5000)
    runner.run(ref)
    error = store.get(ref).error
    assert error is not None
    assert (error.code, error.retryable) == ("context_length_exceeded", False)


def test_a_second_greedy_job_is_served_from_the_cache(runner: Runner, store: MemoryStore):
    first, second, other = (submit(store, "same", tenant=tenant) for tenant in ("shop", "shop", "rival"))
    for ref in (first, second, other):
        runner.run(ref)
    jobs = [store.get(ref) for ref in (first, second, other)]
    assert [job.cached for job in jobs] == [False, True, False]
    assert jobs[1].output == jobs[0].output
    assert jobs[1].usage.cached_tokens == jobs[0].usage.prompt_tokens


@pytest.mark.parametrize("spec", [{"temperature": 0.5}, {"cache": False}, {"max_length": 21}])
def test_what_may_come_out_otherwise_is_not_cached(runner: Runner, store: MemoryStore, spec: dict):
    runner.run(submit(store, "same"))
    refs = [submit(store, "same", **spec) for _ in range(2)]
    for ref in refs[:1] if "max_length" in spec else refs:
        runner.run(ref)
        assert not store.get(ref).cached


def test_history_makes_another_answer_and_so_another_cache_entry(runner: Runner, store: MemoryStore):
    refs = [submit(store, "same", user_id="u") for _ in range(2)]
    for ref in refs:
        runner.run(ref)
    assert [store.get(ref).cached for ref in refs] == [False, False]
    assert store.get(refs[1]).usage.prompt_tokens > store.get(refs[0]).usage.prompt_tokens
    assert len(store.get(refs[1]).history) == 2


def test_a_running_job_is_stopped_and_keeps_what_it_had(store: MemoryStore, slow_echo: Engine):
    runner = make_runner(store, slow_echo)
    ref = submit(store, "a long story", max_length=400)
    thread = threading.Thread(target=runner.run, args=(ref,))
    thread.start()
    until(lambda: slow_echo.stats().generated_tokens > 3)
    assert store.cancel(ref).cancel_requested
    runner.stop(ref, Stop.CANCELED)
    runner.stop(ref, Stop.EXPIRED)
    thread.join(10)
    job = store.get(ref)
    assert job.status is JobStatus.CANCELED
    assert job.choices[0].finish_reason == "canceled"
    assert 0 < job.usage.completion_tokens < 400
    assert store.history("shop", "u") == ()


def test_a_stop_that_comes_before_the_engine_has_it_counts_too(store: MemoryStore, slow_echo: Engine):
    class StopsAtOnce(type(store)):
        """Cancels between the claim and the submit."""

        def cached(self, tenant, cache_key):
            runner.stop(ref, Stop.CANCELED)
            return super().cached(tenant, cache_key)

    store = StopsAtOnce()
    runner = make_runner(store, slow_echo)
    ref = submit(store, max_length=400)
    runner.run(ref)
    assert store.get(ref).status is JobStatus.CANCELED
    assert store.get(ref).usage.completion_tokens < 5


def test_an_engine_that_stops_hands_its_jobs_back(store: MemoryStore, slow_echo: Engine):
    sent: list[Hint] = []
    runner = make_runner(store, slow_echo, sent)
    ref = submit(store, max_length=400)
    thread = threading.Thread(target=runner.run, args=(ref,))
    thread.start()
    until(lambda: slow_echo.stats().generated_tokens > 3)
    slow_echo.shutdown(0)
    thread.join(10)
    job = store.get(ref)
    assert (job.status, job.owner, job.queue_position) == (JobStatus.QUEUED, None, 1)
    assert sent == [Hint(ref, "demo")]


def test_a_closed_runner_claims_nothing_and_passes_the_hint_on(store: MemoryStore, echo: Engine):
    sent: list[Hint] = []
    runner = make_runner(store, echo, sent)
    ref = submit(store)
    runner.close()
    runner.run(ref)
    assert store.get(ref).status is JobStatus.QUEUED
    assert sent == [Hint(ref, "demo")]


def test_an_end_sends_what_is_next(store: MemoryStore, echo: Engine):
    sent: list[Hint] = []
    runner = make_runner(store, echo, sent)
    refs = [submit(store, seed=n) for n in range(10)]  # the window holds eight: four slots, and a little headroom
    runner.run(refs[0])
    assert sent == [Hint(refs[8], "demo")]


def test_a_job_that_outlasts_its_time_expires_within_a_step_and_keeps_what_it_had(
    store: MemoryStore, slow_echo: Engine
):
    runner = make_runner(store, slow_echo)
    ref = submit(store, "a long story", max_length=400, execution_timeout_s=1)
    began = time.monotonic()
    runner.run(ref)
    assert 1 <= time.monotonic() - began < 1.5
    job = store.get(ref)
    assert job.status is JobStatus.EXPIRED
    assert job.output
    assert 10 < job.usage.completion_tokens < 60
    assert job.usage.prompt_tokens > 5


def test_a_worker_without_a_lease_runs_nothing(runner: Runner, store: MemoryStore):
    ref = submit(store)
    store.depart("w1")
    runner.run(ref)
    assert store.get(ref).status is JobStatus.QUEUED


def test_what_is_lost_is_stopped_and_its_result_dropped(store: MemoryStore, slow_echo: Engine):
    runner = make_runner(store, slow_echo)
    ref = submit(store, max_length=400)
    thread = threading.Thread(target=runner.run, args=(ref,))
    thread.start()
    until(lambda: slow_echo.stats().generated_tokens > 3)
    store.delete(ref)
    runner.stop(ref, Stop.LOST)
    thread.join(10)
    assert store.list_jobs("shop", JobFilter(), None, 10).data == ()
    assert runner.running() == []


@pytest.mark.parametrize(
    ("raised", "code", "retryable"),
    [(GenerationError("NaN in the logits."), "generation_failed", True), (RuntimeError("secret"), "internal_error", True),
     (SystemExit(1), "internal_error", True), (KeyboardInterrupt(), "internal_error", True)],
)  # fmt: skip
def test_whatever_the_engine_raises_ends_the_job_and_leaves_the_task_alive(
    store: MemoryStore, echo: Engine, monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: str, retryable: bool
):
    def submit_fails(*_):
        raise raised

    runner = make_runner(store, echo)
    monkeypatch.setattr(echo, "submit", submit_fails)
    ref = submit(store)
    runner.run(ref)
    job = store.get(ref)
    assert job.status is JobStatus.FAILED
    assert (job.error.code, job.error.retryable) == (code, retryable)
    assert "secret" not in job.error.message


def test_a_known_end_waits_for_redis_to_come_back(store: MemoryStore, echo: Engine):
    class AwayForAWhile(MemoryStore):
        """Fails the first three finishes."""

        failures = 3

        def finish(self, *args):
            if self.failures:
                self.failures -= 1
                raise StoreUnavailableError("away")
            return super().finish(*args)

    away = AwayForAWhile()
    runner = make_runner(away, echo)
    ref = submit(away)
    runner.run(ref)
    assert away.get(ref).status is JobStatus.SUCCEEDED


def test_without_redis_the_cache_is_passed_over(echo: Engine):
    class NoCache(MemoryStore):
        """Cannot be asked for cached results."""

        def cached(self, tenant, cache_key):
            raise StoreUnavailableError("away")

    store = NoCache()
    ref = submit(store)
    make_runner(store, echo).run(ref)
    assert store.get(ref).status is JobStatus.SUCCEEDED
