"""The parts of benchmarks.gpu. Each prints a table and leaves its figures in ``bench.results``."""

from __future__ import annotations

import statistics
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import gpu_bench
from benchmarks.gpu_bench import Bench, Watch, random_prompt, run_all, seconds_of, submit
from benchmarks.gpu_cb import continuous_batching
from benchmarks.workload import Job, totals
from worker.engine.decode_inputs import Span
from worker.engine.paged_runner import PagedRunner
from worker.engine.transformers_engine import TransformersEngine

_SIZES = (1, 8, 32, 64, 128, 256)  # of decoding steps that are timed
_CACHED = 200  # tokens that each of their rows has
_AGREED = 6  # requests whose tokens are compared with generate's
_LIKELY = 0.02  # of the largest logit: where two choices are nearer than this, half precision may take either


def ceilings(bench: Bench) -> None:
    """What the chip gives: bandwidth copying, bandwidth reading (a matrix times a vector), rate of a large matrix product."""
    dtype, device, half = bench.weights.dtype, bench.device, bench.shape.copied // 2
    source = torch.randn(half // dtype.itemsize, dtype=dtype, device=device)
    target, size, side = torch.empty_like(source), source.numel() * dtype.itemsize, bench.shape.product
    copied = 2 * size / seconds_of(bench, lambda: target.copy_(source), 10)
    matrix, vector = source.view(-1, side), source[:side].clone()
    read = size / seconds_of(bench, lambda: torch.mv(matrix, vector), 10)
    left, right = (torch.randn(side, side, dtype=dtype, device=device) for _ in range(2))
    rate = 2 * side**3 / seconds_of(bench, lambda: left @ right, 10)
    bench.results["ceilings"] = {"copy_bytes_per_s": copied, "read_bytes_per_s": read, "product_flop_per_s": rate}
    print(f"| copy (read + written) | matrix x vector (read) | {side}^3 product |\n|---|---|---|")
    print(f"| {copied / 1e12:.3f} TB/s | {read / 1e12:.3f} TB/s | {rate / 1e12:.1f} TFLOP/s |")


def plain(bench: Bench) -> None:
    """The engine with CUDA graphs, the model as transformers has it."""
    _with_engine(bench, "graphs", None)


def compiled(bench: Bench) -> None:
    """The same with the model compiled."""
    if bench.compiler is None:
        print("Not asked for.")
        return
    _with_engine(bench, "graphs + compiled", bench.compiler)


def long_prompt(bench: Bench) -> None:
    """What running rows feel of a long prompt: computed in chunks between their steps, and at once."""
    shape = bench.shape
    figures = bench.results["long_prompt"] = {}
    print(
        f"{shape.running} rows decode, a prompt of {shape.long_prompt} tokens arrives. Milliseconds between tokens of a row:\n"
    )
    print(
        "| prompt computed | median before | median meanwhile | longest meanwhile | first token of the prompt after |"
    )
    print("|---|---|---|---|---|")
    for name, budget in ((f"{shape.chunk} tokens a step", shape.chunk), ("at once", 2 * shape.long_prompt)):
        context = shape.long_prompt + (512 if bench.on_gpu else 440)
        with gpu_bench.engine(bench, slots=shape.running + 1, context=context, budget=budget) as made:
            # A host that was busy elsewhere may have been too late for the running rows: once more, then.
            found = next(filter(None, (_disturbed(bench, made) for _ in range(_TRIES))), None)
        if found is None:
            raise RuntimeError("The running rows had ended before the prompt came.")
        figures[name] = found
        print(f"| {name} | {' | '.join(f'{1000 * seconds:.1f}' for seconds in found.values())} |", flush=True)


def against_continuous_batching(bench: Bench) -> None:
    """transformers' continuous batching on the same requests, as many as the time allows."""
    found = continuous_batching(bench)
    bench.results["continuous_batching"] = found
    ours = max((run["w"]["tokens_per_s"] for run in bench.results["engines"].values() if "w" in run), default=0.0)
    print("| requests | settings | tok/s |\n|---|---|---|")
    for run in found["runs"]:
        print(f"| {run['requests']} | {run['settings']} | {run['tokens_per_s']:.1f} |")
    best = max(run["tokens_per_s"] for run in found["runs"])
    found["ours_to_theirs"] = ours / best
    print(f"\nOurs on {bench.requests} requests: {ours:.1f} tok/s, {ours / best:.2f} times their best (target: 3).")


def _with_engine(bench: Bench, name: str, compiler: str | None) -> None:
    """One engine for all that shares its settings; what went well is kept, whatever comes after."""
    figures: dict[str, Any] = {}
    bench.results.setdefault("engines", {})[name] = figures
    began = time.perf_counter()
    slots, budget = bench.requests, 2048
    with gpu_bench.engine(bench, slots=slots, context=bench.shape.context, budget=budget, compiler=compiler) as made:
        figures["start_s"] = time.perf_counter() - began
        figures["info"] = {"slots": made.info.slots, "tokens_that_fit": made.info.kv_tokens}
        runner = gpu_bench.runner_of(made)
        figures["memory"] = "pages" if runner is not None else "slots"
        print(f"Started in {figures['start_s']:.0f} s; keys and values in {figures['memory']}.\n")
        parts: list[tuple[str, Callable[[], None]]] = [
            ("alone", lambda: _alone(bench, made, figures)),
            ("together", lambda: _together(bench, made, figures)),
            ("agreement", lambda: _agreement(bench, made, figures)),
        ]
        if runner is not None:
            parts.append(("step times", lambda: _step_times(bench, runner, figures, eager=compiler is None)))
        failed = [part for part, run in parts if not _tried(part, run)]
    if failed:
        raise RuntimeError(f"Failed: {', '.join(failed)}")


def _tried(name: str, run: Callable[[], None]) -> bool:
    """What fails says so, and the rest of the engine's figures are still worth having."""
    try:
        run()
    except Exception:  # noqa: BLE001  # the reason above
        traceback.print_exc()
        print(f"FAILED: {name}", flush=True)
        return False
    return True


def _alone(bench: Bench, made: TransformersEngine, figures: dict[str, Any]) -> None:
    """A request alone: tokens a second while it decodes, as a share of what reading the weights allows."""
    prompt, few, many = random_prompt(bench, 32, 1), 8, bench.shape.lone_tokens
    run_all(bench, made, [Job(prompt, few)])
    rates = []
    for _ in range(3):
        _, short = run_all(bench, made, [Job(prompt, few)])
        _, long = run_all(bench, made, [Job(prompt, few + many)])
        rates.append(many / (long - short))
    rate = statistics.median(rates)
    limit = bench.results["ceilings"]["copy_bytes_per_s"] / bench.step_bytes
    figures["alone"] = {"tokens_per_s": rate, "limit": limit, "share": rate / limit}
    print(f"Batch 1: {rate:.1f} tok/s; measured copy bandwidth / bytes of the weights: {limit:.1f}", end="; ")
    print(f"share {rate / limit:.1%} (target: 75%)", flush=True)


def _together(bench: Bench, made: TransformersEngine, figures: dict[str, Any]) -> None:
    """W: all requests at once."""
    jobs = bench.workload(bench.requests)
    run_all(bench, made, jobs[:4])
    outputs, seconds = run_all(bench, made, jobs)
    prompt, output = totals(jobs)
    least = least_seconds(bench, jobs)
    assert sum(map(len, outputs)) == output
    figures["w"] = {
        "requests": len(jobs), "prompt_tokens": prompt, "output_tokens": output, "seconds": seconds,
        "tokens_per_s": output / seconds, "least_seconds": least, "share": least / seconds,
    }  # fmt: skip
    print(f"W, {len(jobs)} requests, {prompt} prompt and {output} output tokens: {seconds:.2f} s,", end=" ")
    print(
        f"{output / seconds:.1f} tok/s; least time by the roofline {least:.2f} s, share {least / seconds:.1%}",
        flush=True,
    )


def least_seconds(bench: Bench, jobs: list[Job]) -> float:
    """The roofline of W: every step reads the weights and its rows' keys and values once, at the measured copy bandwidth, or computes
    two operations a weight and token at the measured rate, whichever takes longer. All prompts in one step, then one step for each
    token, with the rows that have not ended."""
    speed, rate = (bench.results["ceilings"][name] for name in ("copy_bytes_per_s", "product_flop_per_s"))
    weights = bench.step_bytes
    operations = 2 * weights / bench.weights.dtype.itemsize

    def step(rows: int, cached: int) -> float:
        return max((weights + cached * bench.token_bytes) / speed, operations * rows / rate)

    total = step(sum(len(job.prompt) for job in jobs), 0)
    for at in range(1, max(job.output_tokens for job in jobs)):
        running = [job for job in jobs if job.output_tokens > at]
        total += step(len(running), sum(len(job.prompt) + at for job in running))
    return total


def _agreement(bench: Bench, made: TransformersEngine, figures: dict[str, Any]) -> None:
    """Greedy tokens against ``model.generate``; where they part, how near the two choices were."""
    jobs = bench.workload(bench.requests)[:_AGREED]
    outputs, _ = run_all(bench, made, jobs)
    name = bench.weights.model.config._attn_implementation  # noqa: SLF001  # transformers has no public reader
    bench.attention("sdpa")
    try:
        parted = [_parting(bench, job, output) for job, output in zip(jobs, outputs, strict=True)]
    finally:
        bench.attention(name)
    same = sum(part["at"] is None for part in parted)
    worst = max((part["gap"] for part in parted), default=0.0)
    figures["agreement"] = {"requests": len(jobs), "same": same, "parted": parted}
    print(
        f"model.generate says the same for {same} of {len(jobs)} requests. Where they part, the two choices lie at most",
        end=" ",
    )
    print(f"{worst:.2%} of the largest logit apart (near enough: {_LIKELY:.0%})", flush=True)
    if worst > _LIKELY:
        raise AssertionError(f"The engine chose a token that lies {worst:.1%} of the largest logit under the best.")


@torch.inference_mode()
def _parting(bench: Bench, job: Job, ours: tuple[int, ...]) -> dict[str, Any]:
    """Where ``generate`` chose another token: at which, and how much better it was, as a share of the largest logit."""
    model: Any = bench.weights.model
    ids = torch.tensor([job.prompt], device=bench.device)
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=job.output_tokens, do_sample=False, pad_token_id=0
    )
    theirs = out[0, ids.shape[1] :].tolist()
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b), None)
    if at is None:
        return {"at": None, "gap": 0.0}
    logits = model(torch.tensor([[*job.prompt, *ours[:at]]], device=bench.device)).logits[0, -1].float()
    return {"at": at, "gap": float((logits.max() - logits[ours[at]]) / logits.abs().max())}


@torch.inference_mode()
def _step_times(bench: Bench, runner: PagedRunner, figures: dict[str, Any], *, eager: bool) -> None:
    """A decoding step alone, the loop around it left out, for some sizes."""
    cached = min(_CACHED, bench.shape.context - 2)
    sizes = sorted({min(size, runner.paged.rows) for size in _SIZES})
    held: list[list[int]] = [[] for _ in range(sizes[-1])]
    for pages in held:
        runner.pool.grow(pages, cached + 1)
    times = figures["step_ms"] = {"graphs": _times(bench, runner, held, cached, sizes)}
    if eager and runner.paged.steps.captured:
        runner.paged.steps.forget()
        times["launched one by one"] = _times(bench, runner, held, cached, sizes)
    for pages in held:
        runner.pool.give_back(pages)
    print(f"\nA decoding step, milliseconds, each row with {cached} tokens cached:\n")
    print(f"| rows | {' | '.join(map(str, sizes))} |\n|---|{'---|' * len(sizes)}")
    for name, row in times.items():
        print(
            f"| {name if runner.paged.steps.captured or name != 'graphs' or bench.on_gpu else 'no graphs here'} |",
            end=" ",
        )
        print(f"{' | '.join(f'{row[size]:.2f}' for size in sizes)} |")
    speed = bench.results["ceilings"]["copy_bytes_per_s"]
    floor = [1000 * (bench.step_bytes + size * cached * bench.token_bytes) / speed for size in sizes]
    print(f"| bytes / copy bandwidth | {' | '.join(f'{ms:.2f}' for ms in floor)} |", flush=True)


def _times(bench: Bench, runner: PagedRunner, held: list[list[int]], cached: int, sizes: list[int]) -> dict[int, float]:
    found = {}
    for size in sizes:
        spans = [Span([1], cached, pages) for pages in held[:size]]
        found[size] = 1000 * seconds_of(
            bench, lambda spans=spans: runner.paged.fetch(runner.paged.decode(spans)[1]), 5, 3
        )
    return found


_TRIES = 4
_FELT = ("before", "meanwhile", "longest", "first_token")


def _disturbed(bench: Bench, made: TransformersEngine) -> dict[str, float] | None:
    """Seconds between tokens of the running rows: median before; median and longest meanwhile; and until the prompt's first token.
    None where the rows had ended before it."""
    shape, patience = bench.shape, max(60.0, bench.left_s)
    tokens = 400
    watches = [Watch() for _ in range(shape.running)]
    running = [submit(made, Job(random_prompt(bench, 16, seed), tokens), watch) for seed, watch in enumerate(watches)]
    for watch in watches:
        assert watch.first.wait(patience)
    time.sleep(0.3 if bench.on_gpu else 0.02)
    arrived, late = time.perf_counter(), Watch()
    prompt = submit(made, Job(random_prompt(bench, shape.long_prompt, 99), 4), late)
    assert late.first.wait(patience)
    first = late.times[0]
    prompt.result(patience)
    for handle in running:
        handle.cancel()
        handle.result(patience)
    gaps = [gap for watch in watches for gap in watch.gaps()]
    before = [end - start for start, end in gaps if end <= arrived]
    meanwhile = [end - start for start, end in gaps if end > arrived and start < first]
    if not before or not meanwhile:
        return None
    felt = (statistics.median(before), statistics.median(meanwhile), max(meanwhile), first - arrived)
    return dict(zip(_FELT, felt, strict=True))


SECTIONS: tuple[tuple[str, Callable[[Bench], None]], ...] = (
    ("ceilings", ceilings),
    ("engine, CUDA graphs", plain),
    ("a long prompt arrives", long_prompt),
    ("engine, CUDA graphs and compiled", compiled),
    ("transformers' continuous batching", against_continuous_batching),
)
