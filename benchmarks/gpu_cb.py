"""transformers' continuous batching at its best settings of a few, on as much of W as the time allows."""

from __future__ import annotations

import time
from typing import Any

from transformers import ContinuousBatchingConfig, GenerationConfig

from benchmarks import gpu_bench
from benchmarks.gpu_bench import Bench
from benchmarks.workload import Job

_FEW = 32  # requests by which settings are compared
_SHARE = 0.7  # of the time that is left, at most, for the whole of W


def continuous_batching(bench: Bench) -> dict[str, Any]:
    """Runs with each setting on some requests, then with the best of them on all, where that fits into the time."""
    jobs = bench.workload(bench.requests)
    few = jobs[: min(_FEW, len(jobs))]
    bench.attention("sdpa")
    runs: list[dict[str, Any]] = []
    errors: dict[str, str] = {}
    for name, settings in _settings(bench, len(few)).items():
        try:
            runs.append({"requests": len(few), "settings": name, "tokens_per_s": _rate(bench, few, settings)})
        except Exception as error:  # noqa: BLE001  # a setting that does not work here is no reason to stop
            errors[name] = f"{type(error).__name__}: {error}"
            print(f"{name}: {errors[name]}", flush=True)
        gpu_bench.free(bench)
    if not runs:
        raise RuntimeError(f"No setting worked: {errors}")
    best = max(runs, key=lambda run: run["tokens_per_s"])
    # With all at once a step costs more: half of the rate that a few had is what is reckoned with.
    needed = sum(job.output_tokens for job in jobs) / best["tokens_per_s"] * 2
    if len(few) < len(jobs) and needed < _SHARE * bench.left_s:
        settings = _settings(bench, len(jobs))[best["settings"]]
        runs.append({"requests": len(jobs), "settings": best["settings"], "tokens_per_s": _rate(bench, jobs, settings)})
    return {"runs": runs, "errors": errors}


def _settings(bench: Bench, at_once: int) -> dict[str, ContinuousBatchingConfig]:
    if not bench.on_gpu:
        blocks = 4 * at_once + 4
        small = ContinuousBatchingConfig(
            max_requests_per_batch=at_once, num_blocks=blocks, max_batch_tokens=128, use_cuda_graph=False
        )
        return {"small": small}
    return {
        "its own defaults": ContinuousBatchingConfig(),
        f"{at_once} requests at once, CUDA graphs": ContinuousBatchingConfig(
            max_requests_per_batch=at_once, use_cuda_graph=True, max_memory_percent=0.8
        ),
        f"{at_once} requests at once, no CUDA graphs": ContinuousBatchingConfig(
            max_requests_per_batch=at_once, use_cuda_graph=False, max_memory_percent=0.8
        ),
    }


def _rate(bench: Bench, jobs: list[Job], settings: ContinuousBatchingConfig) -> float:
    """Output tokens a second, the model warm. Raises: RuntimeError where a request fails, TimeoutError."""
    model: Any = bench.weights.model
    longest = max(job.output_tokens for job in jobs)
    generation = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=longest
    )
    until = time.monotonic() + max(60.0, _SHARE * bench.left_s)
    with model.continuous_batching_context_manager(generation, continuous_batching_config=settings) as manager:
        _finish(manager, jobs[:2], until)
        began = time.perf_counter()
        tokens = _finish(manager, jobs, until)
        return tokens / (time.perf_counter() - began)


def _finish(manager: Any, jobs: list[Job], until: float) -> int:
    for job in jobs:
        manager.add_request(list(job.prompt), max_new_tokens=job.output_tokens)
    done = tokens = 0
    while done < len(jobs):
        if time.monotonic() > until:
            raise TimeoutError(f"{done} of {len(jobs)} requests ended in time")
        result = manager.get_result(timeout=10)
        if result is None:
            continue
        if result.error is not None:
            raise RuntimeError(f"continuous batching gave {result.error}")
        if result.is_finished():
            done += 1
            tokens += len(result.generated_tokens)
    return tokens
