"""Time to the first token of prompts that begin with the same template, with what was computed of it reused and not.

    python -m benchmarks.prefix                            # distilgpt2's shape, a template of 400 tokens
    python -m benchmarks.prefix --shape tiny --template 200

Two engines in one process, asked in turn: ``off`` computes every prompt, ``on`` keeps prefixes. Each request is the template
and 32 tokens that no other has. First one after the other, then all at once, each time with a template that is new to both;
only after the first of them is there something to reuse. Then the price where there is nothing: prompts that have nothing in
common, with their owner told (all of them are looked up and kept) and not told.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.workload import SHAPES, make_workload, save_model
from worker.engine.factory import EngineConfig, build_engine
from worker.engine.protocol import Engine, EngineRequest, SamplingParams

RESULTS = Path(__file__).parent / "results"
OWN_TOKENS = 32

Prompt = tuple[int, ...]


def main() -> None:
    """Run all three, print the figures, write the JSON."""
    options = _parse()
    folder = save_model(options.shape, Path(tempfile.gettempdir()) / "smarttextgen-bench")
    with _engine(folder, 0) as off, _engine(folder, None) as on:
        engines = {"off": off, "on": on}
        report: dict[str, Any] = {
            "shape": options.shape,
            "template_tokens": options.template,
            "cores": os.cpu_count(),
            "load_average": os.getloadavg(),
            "one_by_one": _compare(engines, options, together=False),
            "together": _compare(engines, options, together=True),
        }
        if options.price:
            report["nothing_in_common"] = _price(engines, options.shape)
    print(json.dumps(report, indent=1))
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"prefix-{options.shape}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written: {path}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.prefix", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=sorted(SHAPES), default="gpt2", help="the model's size (default: gpt2, 82M)")
    parser.add_argument("--template", type=int, default=400, help="tokens of the template (default: 400)")
    parser.add_argument("--requests", type=int, default=8, help="after the first one (default: 8)")
    parser.add_argument("--price", action="store_true", help="workload W too, where nothing is in common")
    return parser.parse_args()


@contextmanager
def _engine(folder: Path, prefix_cache_bytes: int | None) -> Iterator[Engine]:
    engine = build_engine(EngineConfig(model_id=str(folder), device="cpu", prefix_cache_bytes=prefix_cache_bytes))
    engine.start()
    yield engine
    engine.shutdown()


def _compare(engines: dict[str, Engine], options: argparse.Namespace, *, together: bool) -> dict[str, Any]:
    """Medians over the requests after the first, and by how much they are better with reuse."""
    prompts = _prompts(options, seed=int(together))
    found: dict[str, dict[str, float]] = {}
    for name, engine in engines.items():
        _ask(engine, prompts[:1])
        began = time.process_time()
        times = _ask(engine, prompts[1:]) if together else [_ask(engine, [prompt])[0] for prompt in prompts[1:]]
        cpu = (time.process_time() - began) / len(times)
        found[name] = {"first_token_ms": 1000 * statistics.median(times), "cpu_ms_a_request": 1000 * cpu}
    ratios = {f"{measure}_ratio": found["off"][measure] / found["on"][measure] for measure in found["on"]}
    return {**found, **ratios}


def _prompts(options: argparse.Namespace, seed: int) -> list[Prompt]:
    dice = random.Random(seed)
    vocabulary = SHAPES[options.shape]["vocab_size"]

    def tokens(count: int) -> Prompt:
        return tuple(dice.randrange(vocabulary) for _ in range(count))

    template = tokens(options.template)
    return [template + tokens(OWN_TOKENS) for _ in range(options.requests + 1)]


def _ask(engine: Engine, prompts: list[Prompt]) -> list[float]:
    """Seconds to the first token of each, all submitted at once."""
    params = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True)
    handles = [engine.submit(EngineRequest(prompt, params, reuse_scope="bench")) for prompt in prompts]
    return [handle.result().first_token_s or 0.0 for handle in handles]


def _price(engines: dict[str, Engine], shape: str) -> dict[str, float]:
    """Processor seconds for workload W, twice in turn, the better: without a prefix cache; with one, and nobody's prompts;
    with one, and a tenant's."""
    jobs = make_workload(SHAPES[shape]["vocab_size"])
    runs = (("off", "off", None), ("on_without_owner", "on", None), ("on_with_owner", "on", "bench"))
    seconds: dict[str, list[float]] = {}
    for turn in range(2):
        for name, engine, scope in runs:
            owner = scope and f"{scope}{turn}"  # nothing of the first turn is found in the second
            began = time.process_time()
            handles = [
                engines[engine].submit(
                    EngineRequest(
                        job.prompt, SamplingParams(job.output_tokens, 0.0, ignore_eos=True), reuse_scope=owner
                    )
                )
                for job in jobs
            ]
            for handle in handles:
                handle.result()
            seconds.setdefault(name, []).append(time.process_time() - began)
    return {f"{name}_cpu_s": min(times) for name, times in seconds.items()}


if __name__ == "__main__":
    main()
