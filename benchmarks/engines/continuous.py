"""transformers' continuous batching, with sdpa and its best setting of seven (benchmarks/notes.md)."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

from transformers import ContinuousBatchingConfig, GenerationConfig

from benchmarks.engines.contender import Outputs, Stream, Task, wait_until
from benchmarks.engines.plain import Plain
from benchmarks.workload import Job

_SILENCE_S = 120.0  # without a result, something is wrong


class Continuous(Plain):
    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.model.set_attn_implementation("sdpa")
        generation = GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=256
        )
        batching = ContinuousBatchingConfig(
            max_requests_per_batch=task.cb_requests,
            num_blocks=2 * task.cb_requests + 2,
            max_batch_tokens=task.cb_tokens,
            use_cuda_graph=False,
        )
        self._context = self.model.continuous_batching_context_manager(generation, continuous_batching_config=batching)
        self._manager: Any = self._context.__enter__()

    def generate(self, jobs: Sequence[Job]) -> Outputs:
        names = [self._add(job, streaming=False) for job in jobs]
        done: dict[str, list[int]] = {}
        while len(done) < len(jobs):
            result = self._next()
            if result.is_finished():
                done[result.request_id] = list(result.generated_tokens)
        return [done[name] for name in names]

    def serve(self, jobs: Sequence[Job], due: Sequence[float]) -> list[Stream]:
        streams = [Stream(at) for at in due]
        names: dict[str, int] = {}
        began = time.perf_counter()

        def send() -> None:
            for number, (job, at) in enumerate(zip(jobs, due, strict=True)):
                wait_until(began + at)
                name = f"{began}-{number}"
                names[name] = number
                self._add(job, streaming=True, name=name)

        sender = threading.Thread(target=send)
        sender.start()
        open_streams = len(jobs)
        while open_streams:
            result = self._next()
            stream = streams[names[result.request_id]]
            stream.deliver(began, len(result.generated_tokens) - len(stream.tokens))
            stream.tokens = list(result.generated_tokens)
            open_streams -= result.is_finished()
        sender.join()
        return streams

    def close(self) -> None:
        self._context.__exit__(None, None, None)

    def _add(self, job: Job, *, streaming: bool, name: str | None = None) -> str:
        added: str = self._manager.add_request(
            list(job.prompt), request_id=name, max_new_tokens=job.output_tokens, streaming=streaming
        )
        return added

    def _next(self) -> Any:
        """The next result. Raises: RuntimeError for one that failed, or for none in a long time."""
        result = self._manager.get_result(timeout=_SILENCE_S)
        if result is None or result.error is not None:
            raise RuntimeError(f"continuous batching gave {result}")
        return result
