"""A real worker process with ENGINE=vllm, the bundled model, real Celery and a real server. Run by `make test-vllm`."""

from __future__ import annotations

import signal

import pytest

from shared.job import JobStatus
from tests.servers import until
from tests.worker.conftest import submit

pytest.importorskip("vllm", reason="vLLM is not installed; make test-vllm has it")
psutil = pytest.importorskip("psutil")

LOAD_S = 240
VLLM = {
    "ENGINE": "vllm",
    "ENGINE_VLLM_ENFORCE_EAGER": "true",
    "ENGINE_KV_CACHE_BYTES": str(2**28),
    "ENGINE_SLOTS": "8",
    "WORKER_LEASE_S": "4",
}


def test_jobs_run_stream_and_cancel_and_sigterm_drains(start_worker, redis_store, hint):
    worker = start_worker(**VLLM)
    until(lambda: worker.process.poll() is not None or redis_store.fleet().workers, LOAD_S, what="a ready worker")
    assert worker.process.poll() is None, worker.output()
    (info,) = redis_store.fleet().workers
    assert (info.model.engine, info.slots) == ("vllm", 8)

    texts = ["I like quiet walks near water.", "My parcel has not come.", "我的包裹還沒到。", "wool hiking socks"]
    refs = [submit(redis_store, text, mode="support", max_length=60) for text in texts * 4]
    for ref in refs:
        hint(ref)
    until(lambda: all(redis_store.get(ref).status.ended for ref in refs), 120, what="the jobs' ends")
    jobs = [redis_store.get(ref) for ref in refs]
    assert {job.status for job in jobs} == {JobStatus.SUCCEEDED}
    assert all(job.choices[0].text.strip() for job in jobs)
    assert len({job.choices[0].text for job in jobs}) > 1
    assert [job.choices for job in jobs[:4]] == [job.choices for job in jobs[4:8]]  # greedy

    long = submit(redis_store, "Tell me a story.", max_length=900, cache=False, temperature=1.0, seed=2)
    hint(long)
    until(lambda: redis_store.get(long).status is JobStatus.RUNNING)
    redis_store.cancel(long)
    until(lambda: redis_store.get(long).status.ended, 30)

    family = psutil.Process(worker.process.pid).children(recursive=True)
    assert family
    last = submit(redis_store, "wool hiking socks, grey", mode="ecommerce", max_length=40, cache=False)
    hint(last)
    until(lambda: redis_store.get(last).status is not JobStatus.QUEUED)
    worker.process.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0, worker.output()
    assert redis_store.get(last).status in (JobStatus.SUCCEEDED, JobStatus.QUEUED)
    assert redis_store.fleet().workers == ()
    until(lambda: not any(process.is_running() for process in family), 15)
    assert "Traceback" not in worker.output()
