"""The slot engine, as a worker builds it. A thread for each caller, as in a worker."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from benchmarks.engines.contender import Outputs, Stream, Task, wait_until
from benchmarks.workload import Job
from worker.engine.factory import EngineConfig, build_engine
from worker.engine.protocol import Delta, EngineRequest, SamplingParams


class Ours:
    def __init__(self, task: Task) -> None:
        self._engine = build_engine(
            EngineConfig(
                model_id=str(task.model),
                device="cpu",
                slots=task.slots,
                token_budget=task.budget,
                pack_weights=task.pack,
                threads=task.threads,
            )
        )
        self._engine.start()

    def generate(self, jobs: Sequence[Job]) -> Outputs:
        handles = [self._engine.submit(_request(job)) for job in jobs]
        return [list(handle.result().completions[0].token_ids) for handle in handles]

    def serve(self, jobs: Sequence[Job], due: Sequence[float]) -> list[Stream]:
        began = time.perf_counter()

        def call(job: Job, at: float) -> Stream:
            stream = Stream(at)

            def listen(delta: Delta) -> None:
                stream.deliver(began, delta.token_count)

            wait_until(began + at)
            result = self._engine.submit(_request(job), listen).result()
            stream.tokens = list(result.completions[0].token_ids)
            return stream

        with ThreadPoolExecutor(len(jobs)) as callers:
            return list(callers.map(call, jobs, due))

    def versions(self) -> dict[str, str]:
        import torch  # loaded by now; not by this module, so that the engine sets up its environment before
        import transformers  # the same

        return {"torch": torch.__version__, "transformers": transformers.__version__}

    def close(self) -> None:
        self._engine.shutdown()


def _request(job: Job) -> EngineRequest:
    return EngineRequest(job.prompt, SamplingParams(max_tokens=job.output_tokens, temperature=0.0, ignore_eos=True))
