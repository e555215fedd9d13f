"""Where the slot engine's time goes in one run of workload W, part by part, or operator by operator.

    python -m benchmarks.profile                          # distilgpt2's shape, all of W, half a minute on two cores
    python -m benchmarks.profile --shape qwen2 --requests 16
    python -m benchmarks.profile --ops --requests 16      # torch's profiler in place of the timers

The timers sit around calls of Python functions and modules, and each part has its own time without that of the parts inside
it. They cost a few microseconds a call, some hundred calls a step. A forward that torch has compiled is one part: its inside
is for ``--ops``.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "4000")  # as the engine has it; torch reads it once

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from benchmarks.workload import SHAPES, make_workload, save_model
from worker.engine import attention
from worker.engine.config import EngineConfig
from worker.engine.loop import EngineLoop
from worker.engine.protocol import EngineRequest, SamplingParams
from worker.engine.transformers_engine import load_model

_LINEAR = ("PackedLinear", "Linear", "Conv1D")
_FOR_EVER_S = 3600.0


class Parts:
    """Seconds and calls of each part, of one thread; a part's seconds are without those of the parts that it calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}
        self._open = ["between steps"]
        self._since = time.perf_counter()

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, whose time counts for ``part``."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self._charge()
            self._open.append(part)
            self.calls[part] = self.calls.get(part, 0) + 1
            try:
                return function(*args, **kwargs)
            finally:
                self._charge()
                self._open.pop()

        return call

    def begin(self) -> None:
        """Forget what was before."""
        self.seconds.clear()
        self.calls.clear()
        self._since = time.perf_counter()

    def _charge(self) -> None:
        now = time.perf_counter()
        part = self._open[-1]
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._since
        self._since = now


def main() -> None:
    options = _parse()
    folder = save_model(options.shape, options.folder)
    config = EngineConfig(
        model_id=str(folder),
        device="cpu",
        slots=options.slots,
        token_budget=options.budget,
        pack_weights=options.pack,
        threads=options.threads,
        deterministic=options.deterministic,
    )
    loop = EngineLoop(load_model(config))
    parts = Parts()
    if not options.ops:
        _put_timers(loop, parts)
    with ExitStack() as stack:
        profiler = None
        if options.ops:
            profiler = stack.enter_context(torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]))
        parts.begin()
        wall, cpu = time.perf_counter(), time.process_time()
        generated = _run(loop, options)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    steps = loop.stats().steps
    info = loop.model.info
    print(
        f"{options.shape}: {options.requests} requests, {generated} tokens, {info.slots} slots, {torch.get_num_threads()} threads"
    )
    print(
        f"{wall:.2f} s, {generated / wall:.1f} tok/s, {generated / cpu:.1f} tok/CPU s, {steps} steps of {1000 * wall / steps:.2f} ms\n"
    )
    if profiler is not None:
        print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=options.rows))
    else:
        _print(parts, wall, steps)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profile", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=sorted(SHAPES), default="gpt2", help="the model's size (default: gpt2, 82M)")
    parser.add_argument("--requests", type=int, default=64, help="how many of W's requests (default: all 64)")
    parser.add_argument("--slots", type=int, default=None, help="rows at once (default: the engine's own)")
    parser.add_argument("--budget", type=int, default=None, help="prompt tokens a step (default: the engine's)")
    parser.add_argument("--pack", choices=("auto", "on", "off"), default="auto", help="weight packing")
    parser.add_argument("--threads", type=int, default=None, help="torch threads (default: the engine's)")
    parser.add_argument("--deterministic", action="store_true", help="in the deterministic mode: what it costs")
    parser.add_argument("--ops", action="store_true", help="torch's profiler: operators by their own time")
    parser.add_argument("--rows", type=int, default=25, help="--ops: how many operators (default: 25)")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "smarttextgen-bench")
    return parser.parse_args()


def _put_timers(loop: Any, parts: Parts) -> None:
    """Around the loop's three verbs, the runner's two halves, attention, the cache's writes, and every linear layer."""
    runner: Any = loop.model.runner
    for owner, name, part in (
        (loop, "_schedule", "scheduling"),
        (loop, "_emit", "emit: detokenize, stop, stream"),
        (runner, "step", "step: plan to tensors, copies"),
        (runner, "forward", "forward: inputs, transformers around the model"),
        (runner, "_choose", "sampling"),
        (runner.cache, "update", "keys and values written"),
    ):
        setattr(owner, name, parts.timed(part, getattr(owner, name)))
    model: Any = runner.model
    ALL_ATTENTION_FUNCTIONS[attention.NAME] = parts.timed("attention", ALL_ATTENTION_FUNCTIONS[attention.NAME])
    output_layer = model.get_output_embeddings()
    for module in model.modules():
        if module is output_layer:
            module.forward = parts.timed("output layer", module.forward)
        elif type(module).__name__ in _LINEAR:
            module.forward = parts.timed("linear layers", module.forward)
    model.forward = parts.timed("model: norms, activations, positions", model.forward)


def _run(loop: EngineLoop, options: argparse.Namespace) -> int:
    """The requests through the loop on this thread. Returns how many tokens they got."""
    jobs = make_workload(SHAPES[options.shape]["vocab_size"])[: options.requests]
    handles = [
        loop.submit(
            EngineRequest(job.prompt, SamplingParams(max_tokens=job.output_tokens, temperature=0.0, ignore_eos=True)),
            None,
        )
        for job in jobs
    ]

    def end_when_done() -> None:
        for handle in handles:
            handle.result()
        loop.stop(0.0)

    watcher = threading.Thread(target=end_when_done)
    watcher.start()
    loop.run(torch.inference_mode())
    watcher.join(_FOR_EVER_S)
    return sum(len(handle.result().completions[0].token_ids) for handle in handles)


def _print(parts: Parts, wall: float, steps: int) -> None:
    print("| part | share | seconds | calls a step | ms a step |\n|---|---|---|---|---|")
    for part, seconds in sorted(parts.seconds.items(), key=lambda item: -item[1]):
        print(
            f"| {part} | {100 * seconds / wall:.1f}% | {seconds:.2f} | {parts.calls.get(part, 0) / steps:.1f} | "
            f"{1000 * seconds / steps:.3f} |"
        )


if __name__ == "__main__":
    main()
