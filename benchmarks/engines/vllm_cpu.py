"""vLLM, in its own environment: ``LLM.generate`` for W (its offline best), its asynchronous engine for arrivals.

float32, room for all 64 requests at once, contexts of 384 tokens, 1 GiB for keys and values (the environment says so, see
benchmarks/processes.py). It turns tokens into text, as ours does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import torch
import transformers
import vllm
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from benchmarks.engines.contender import Outputs, Stream, Task
from benchmarks.workload import Job


class Vllm:
    """What both have in common."""

    def __init__(self, task: Task) -> None:
        self.settings: dict[str, Any] = {
            "model": str(task.model),
            "dtype": "float32",
            "enforce_eager": task.engine == "vllm-eager",
            "max_model_len": 384,
            "max_num_seqs": 64,
            "disable_log_stats": True,
        }

    def versions(self) -> dict[str, str]:
        return {"vllm": vllm.__version__, "torch": torch.__version__, "transformers": transformers.__version__}


class VllmOffline(Vllm):
    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._llm = vllm.LLM(**self.settings)

    def generate(self, jobs: Sequence[Job]) -> Outputs:
        prompts = [{"prompt_token_ids": list(job.prompt)} for job in jobs]
        results = self._llm.generate(prompts, [_sampling(job) for job in jobs], use_tqdm=False)
        return [list(result.outputs[0].token_ids) for result in results]

    def serve(self, jobs: Sequence[Job], due: Sequence[float]) -> list[Stream]:
        raise NotImplementedError

    def close(self) -> None:
        self._llm.llm_engine.engine_core.shutdown()


class VllmOnline(Vllm):
    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self._calls = 0
        self._engine = self._loop.run_until_complete(self._start())

    def generate(self, jobs: Sequence[Job]) -> Outputs:
        return [stream.tokens for stream in self.serve(jobs, [0.0] * len(jobs))]

    def serve(self, jobs: Sequence[Job], due: Sequence[float]) -> list[Stream]:
        self._calls += 1
        return self._loop.run_until_complete(self._serve(jobs, due))

    def close(self) -> None:
        self._engine.shutdown()

    async def _start(self) -> AsyncLLM:
        return AsyncLLM.from_engine_args(AsyncEngineArgs(**self.settings))

    async def _serve(self, jobs: Sequence[Job], due: Sequence[float]) -> list[Stream]:
        began = time.perf_counter()

        async def call(number: int, job: Job, at: float) -> Stream:
            stream = Stream(at)
            await asyncio.sleep(max(0.0, began + at - time.perf_counter()))
            prompt: Any = {"prompt_token_ids": list(job.prompt)}
            sampling = _sampling(job, RequestOutputKind.DELTA)
            async for result in self._engine.generate(prompt, sampling, f"{self._calls}-{number}"):
                new = result.outputs[0].token_ids
                stream.deliver(began, len(new))
                stream.tokens.extend(new)
            return stream

        calls = (call(number, job, at) for number, (job, at) in enumerate(zip(jobs, due, strict=True)))
        return list(await asyncio.gather(*calls))


def _sampling(job: Job, kind: Any = RequestOutputKind.FINAL_ONLY) -> vllm.SamplingParams:
    return vllm.SamplingParams(
        temperature=0.0, max_tokens=job.output_tokens, min_tokens=0, ignore_eos=True, output_kind=kind
    )
