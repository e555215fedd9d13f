"""One engine on workload W, in this process: ``benchmarks.engine`` starts one such process for each.

    python -m benchmarks.engine_runs ours '{"shape": "tiny", "folder": "/tmp/models", ...}'

Prints one line of JSON at the end.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

from benchmarks.workload import SHAPES, Job, make_workload, save_model
from worker.engine.factory import EngineConfig, build_engine
from worker.engine.protocol import EngineRequest, SamplingParams

NAIVE_JOBS = 16

Options = dict[str, Any]
Outputs = list[list[int]]
Seconds = tuple[float, float]


def main(engine: str, options: Options) -> None:
    """Run ``engine``; ``prepare`` only writes the model."""
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    folder = save_model(options["shape"], Path(options["folder"]))
    if engine == "prepare":
        print("{}")
        return
    runs: dict[str, Callable[[Options, Path, list[Job]], tuple[Outputs, Seconds]]] = {
        "naive": run_naive,
        "cb": run_continuous,
        "ours": run_ours,
    }
    jobs = make_workload(SHAPES[options["shape"]]["vocab_size"])
    jobs = jobs[:NAIVE_JOBS] if engine == "naive" else jobs
    outputs, (seconds, cpu_seconds) = runs[engine](options, folder, jobs)
    generated = sum(map(len, outputs))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    record = {
        "engine": engine,
        "requests": len(jobs),
        "output_tokens": generated,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "tokens_per_s": generated / seconds,
        "tokens_per_cpu_s": generated / cpu_seconds,
        "peak_bytes": peak,
        "outputs": outputs,
    }
    print(json.dumps(record))


def run_naive(options: Options, folder: Path, jobs: list[Job]) -> tuple[Outputs, Seconds]:
    """``model.generate`` for one request after the other, as a typical demo serves them."""
    del options
    model = _load(folder)

    def generate(job: Job, tokens: int) -> list[int]:
        ids = torch.tensor([job.prompt])
        mask = torch.ones_like(ids)
        out = model.generate(ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False)
        answer: list[int] = out[0, ids.shape[1] :].tolist()
        return answer

    generate(jobs[0], 4)
    began = _clocks()
    outputs = [generate(job, job.output_tokens) for job in jobs]
    return outputs, _since(began)


def run_continuous(options: Options, folder: Path, jobs: list[Job]) -> tuple[Outputs, Seconds]:
    """transformers' continuous batching, with sdpa, and room for every request that may run at once."""
    model = _load(folder)
    model.set_attn_implementation("sdpa")
    generation = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=256
    )
    at_once = options["cb_requests"]
    batching = ContinuousBatchingConfig(
        max_requests_per_batch=at_once,
        num_blocks=2 * at_once + 2,
        max_batch_tokens=options["cb_tokens"],
        use_cuda_graph=False,
    )
    model.generate_batch([list(jobs[0].prompt)], generation, batching, max_new_tokens=4)
    with model.continuous_batching_context_manager(generation, continuous_batching_config=batching) as manager:
        began = _clocks()
        names = [manager.add_request(list(job.prompt), max_new_tokens=job.output_tokens) for job in jobs]
        done: dict[str, list[int]] = {}
        while len(done) < len(jobs):
            result = manager.get_result(timeout=60)
            if result is None or result.error is not None:
                raise RuntimeError(f"continuous batching gave {result}")
            if result.is_finished():
                done[result.request_id] = list(result.generated_tokens)
        seconds = _since(began)
    return [done[name] for name in names], seconds


def run_ours(options: Options, folder: Path, jobs: list[Job]) -> tuple[Outputs, Seconds]:
    """The slot engine, all requests submitted at once."""
    config = EngineConfig(
        model_id=str(folder),
        device="cpu",
        slots=options["slots"],
        token_budget=options["budget"],
        pack_weights=options["pack"],
        threads=options["threads"],
    )
    engine = build_engine(config)
    engine.start()
    params = [SamplingParams(max_tokens=job.output_tokens, temperature=0.0, ignore_eos=True) for job in jobs]
    began = _clocks()
    handles = [engine.submit(EngineRequest(job.prompt, param)) for job, param in zip(jobs, params, strict=True)]
    outputs = [list(handle.result().completions[0].token_ids) for handle in handles]
    seconds = _since(began)
    engine.shutdown()
    return outputs, seconds


def _clocks() -> Seconds:
    """Wall time, and the CPU time of all threads of this process."""
    return time.perf_counter(), time.process_time()


def _since(began: Seconds) -> Seconds:
    now = _clocks()
    return now[0] - began[0], now[1] - began[1]


def _load(folder: Path) -> Any:
    """The model as transformers loads it, with end-of-text taken away."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    model.eval()
    model.generation_config.eos_token_id = None
    model.config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
