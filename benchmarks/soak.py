"""Does the engine keep anything of requests that are over? 10,000 short ones on a tiny model, memory read on the way.

    python -m benchmarks.soak                       # a few minutes on one core
    python -m benchmarks.soak --requests 2000 --deterministic

Requests are mixed: greedy and seeded, one to three completions, stop strings, penalties, log-probabilities, prefixes that are
reused, some canceled at once or at their first text, some whose listener raises, some that are refused; and now and then a step
raises. Resident memory is read when nothing runs. Exit code 1 where it grows by more than the bound, over the second half; in the first
the caches fill (oneDNN keeps up to 1,024 products, one for each number of rows).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.workload import save_model
from shared.errors import EngineError, InvalidRequestError
from worker.engine.config import EngineConfig
from worker.engine.factory import build_engine
from worker.engine.protocol import Delta, Engine, EngineRequest, Generation, SamplingParams
from worker.engine.sequence import Row, RowGroup

AT_ONCE = 64
_LAST_PLAN = 4  # the loop's last plan stays until the next: a group and its three rows at most
BOUND_BYTES = 500  # a request; a leaked row takes some kilobytes


def main() -> None:
    """Run, print the table. Raises: SystemExit(1) where memory grows."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--deterministic", action="store_true")
    options = parser.parse_args()
    folder = save_model("tiny", Path(tempfile.gettempdir()) / "smarttextgen-bench")
    config = EngineConfig(
        model_id=str(folder),
        device="cpu",
        threads=1,
        max_context=256,
        kv_cache_bytes=32 * 1024**2,
        deterministic=options.deterministic,
    )
    engine = build_engine(config)
    engine.start()
    made_to_fail(engine, every=997)
    chance, ends, table = random.Random(1), Counter[str](), list[tuple[int, int]]()
    print("requests  resident MiB  rows alive  seconds")
    began = time.perf_counter()
    tenth = max(AT_ONCE, options.requests // 10)
    for done in range(tenth, options.requests + 1, tenth):
        ends += soak(engine, chance, tenth)
        table.append((done, resident_bytes()))
        print(
            f"{done:8d}  {table[-1][1] / 1024**2:12.1f}  {alive():10d}  {time.perf_counter() - began:7.1f}", flush=True
        )
    stats = engine.stats()
    print(f"ends: {dict(ends)}; preemptions: {stats.preemptions}; reused prompt tokens: {stats.reused.hits}")
    engine.shutdown()
    growth = slope(table[len(table) // 2 :])
    print(f"growth: {growth:.1f} bytes a request (bound: {BOUND_BYTES}); rows alive at the end: {alive()}")
    if growth > BOUND_BYTES or alive() > _LAST_PLAN:
        raise SystemExit(1)


def soak(engine: Engine, chance: random.Random, count: int) -> Counter[str]:
    """Run ``count`` mixed requests, and return how they ended."""
    ends: Counter[str] = Counter()
    for first in range(0, count, AT_ONCE):
        handles = [
            handle for _ in range(min(AT_ONCE, count - first)) if (handle := start(engine, chance, ends)) is not None
        ]
        ends += Counter(end_of(handle) for handle in handles)
    return ends


def start(engine: Engine, chance: random.Random, ends: Counter[str]) -> Generation | None:
    """Submit one; None where it was refused."""
    vocabulary = engine.info.vocab_size
    template = tuple(range(100, 148))
    prompt = tuple(chance.randrange(vocabulary) for _ in range(chance.randint(1, 40)))
    sampling = SamplingParams(
        max_tokens=chance.randint(1, 12) if chance.random() < 0.99 else 10**6,
        temperature=chance.choice((0.0, 0.0, 1.0)),
        top_p=chance.choice((1.0, 0.9)),
        repetition_penalty=chance.choice((1.0, 1.2)),
        logit_bias=chance.choice(((), ((5, 3.0),))),
        seed=chance.choice((None, 7)),
        stop=chance.choice(((), ("t1",))),
        n=chance.choice((1, 1, 1, 3)),
        logprobs=chance.choice((None, None, 2)),
        ignore_eos=chance.random() < 0.5,
    )
    request = EngineRequest(
        template + prompt, sampling, reuse_scope=chance.choice((None, "a", "b")), shared_tokens=len(template)
    )
    fate = chance.random()
    try:
        handle = engine.submit(request, raising if fate < 0.02 else None)
    except InvalidRequestError:
        ends["refused"] += 1
        return None
    if fate > 0.95:
        handle.cancel()
    return handle


def raising(delta: Delta) -> None:
    raise RuntimeError(f"a listener that raises at {delta.text!r}")


def end_of(handle: Generation) -> str:
    try:
        return str(handle.result(120).completions[0].finish_reason)
    except EngineError as error:
        return error.code


def made_to_fail(engine: Any, every: int) -> None:
    """Let each ``every``-th step raise."""
    runner, steps = engine._loop.model.runner, 0  # noqa: SLF001  # there is no other way to break one
    step = runner.step

    def moody(plan: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps % every == 0:
            raise RuntimeError("the device hiccuped")
        return step(plan)

    runner.step = moody


def alive() -> int:
    """Rows and groups that something still refers to."""
    gc.collect()
    return sum(type(thing) in (Row, RowGroup) for thing in gc.get_objects())


def resident_bytes() -> int:
    """Of this process, after what was freed was given back."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # where it is not glibc
        ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def slope(table: Iterable[tuple[int, int]]) -> float:
    """Bytes a request, by least squares."""
    points = list(table)
    mean_x, mean_y = (sum(column) / len(points) for column in zip(*points, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


if __name__ == "__main__":
    main()
