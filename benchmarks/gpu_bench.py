"""What the parts of benchmarks.gpu share: the shapes, a random model made on the device, engines over it, clocks, and limits."""

from __future__ import annotations

import gc
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from benchmarks.workload import Job, make_workload
from worker.engine.config import EngineConfig
from worker.engine.loading import LoadedWeights
from worker.engine.paged_attention import plain_kernel
from worker.engine.paged_build import PagedOptions
from worker.engine.paged_runner import PagedRunner
from worker.engine.protocol import Delta, EngineRequest, Generation, SamplingParams
from worker.engine.transformers_engine import TransformersEngine

_CPU_PAGE = 16


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's shape, and how large the work for it is.

    context: tokens of a row under W. long_prompt: tokens of the prompt that arrives while others run; chunk: of one step of it.
    lone_tokens: output of a request alone. shrink: W's outputs are divided by it. copied: bytes of the bandwidth test; product:
    side of the matrix product.
    """

    config: dict[str, int]
    requests: int
    context: int
    long_prompt: int
    chunk: int
    running: int
    lone_tokens: int
    shrink: int
    copied: int
    product: int


SHAPES = {
    # Llama 3 8B's.
    "8b": Shape(
        {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
         "intermediate_size": 14336, "vocab_size": 128256, "max_position_embeddings": 8192},
        requests=256, context=512, long_prompt=4096, chunk=512, running=32, lone_tokens=256, shrink=1,
        copied=4 * 1024**3, product=8192,
    ),
    # For this script's own test, on any machine.
    "tiny": Shape(
        {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "intermediate_size": 96, "vocab_size": 512, "max_position_embeddings": 512},
        requests=4, context=160, long_prompt=64, chunk=16, running=2, lone_tokens=16, shrink=8,
        copied=1024**2, product=128,
    ),
}  # fmt: skip


@dataclass(slots=True)
class Bench:
    """One run of the script. ``results`` is what is written as JSON."""

    shape: Shape
    device: torch.device
    requests: int
    deadline: float
    compiler: str | None
    weights: LoadedWeights
    results: dict[str, Any] = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def left_s(self) -> float:
        return self.deadline - time.monotonic()

    @property
    def step_bytes(self) -> int:
        """Weights that a decoding step reads: all but the table of input embeddings, of which it reads some rows."""
        model: Any = self.weights.model
        table = model.get_input_embeddings().weight
        return sum(w.numel() * w.element_size() for w in model.parameters() if w is not table)

    @property
    def token_bytes(self) -> int:
        """Keys and values of a token."""
        shape = self.shape.config
        head = shape["hidden_size"] // shape["num_attention_heads"]
        return 2 * shape["num_hidden_layers"] * shape["num_key_value_heads"] * head * self.weights.dtype.itemsize

    def workload(self, count: int) -> list[Job]:
        jobs = make_workload(self.shape.config["vocab_size"], count)
        return [Job(job.prompt, max(1, job.output_tokens // self.shape.shrink)) for job in jobs]

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def attention(self, name: str) -> None:
        """What transformers' own code is to use."""
        self.weights.model.set_attn_implementation(name)


def random_weights(shape: Shape, device: torch.device) -> LoadedWeights:
    """A Llama of random weights, made where it will be: float16 on a GPU, else float32."""
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    torch.manual_seed(0)
    config = LlamaConfig(
        **shape.config, tie_word_embeddings=False, bos_token_id=None, eos_token_id=None, pad_token_id=0
    )
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.to(device).eval().requires_grad_(False)
    model.generation_config.eos_token_id = None
    vocabulary = {f"t{token}": token for token in range(shape.config["vocab_size"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="t0"))  # noqa: S106  # a word, not a password
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)  # type: ignore[no-untyped-call]
    return LoadedWeights(model, tokenizer, "random", device, dtype)


@contextmanager
def engine(
    bench: Bench, *, slots: int, context: int, budget: int, compiler: str | None = None
) -> Iterator[TransformersEngine]:
    """A started engine; its memory is free again afterwards."""
    config = EngineConfig(
        model_id="random Llama", device=str(bench.device), slots=slots, max_context=context, token_budget=budget
    )
    options = PagedOptions(compiler=compiler)
    if not bench.on_gpu:
        options = PagedOptions(kernel=plain_kernel, page_size=_CPU_PAGE, compiler=compiler)
    bench.attention("sdpa")  # what an engine compares itself with
    made = TransformersEngine(config, lambda _: bench.weights, options)
    made.start()
    try:
        yield made
    finally:
        made.shutdown()
        del made
        free(bench)


def free(bench: Bench) -> None:
    gc.collect()
    if bench.on_gpu:
        torch.cuda.empty_cache()


def runner_of(made: TransformersEngine) -> PagedRunner | None:
    """None where the engine fell back to slots. While the engine is idle, its runner may be used from any thread."""
    runner = made._started_loop.model.runner  # noqa: SLF001  # a benchmark looks inside
    return runner if isinstance(runner, PagedRunner) else None


def greedy(tokens: int) -> SamplingParams:
    return SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)


def submit(made: TransformersEngine, job: Job, listen: Callable[[Delta], None] | None = None) -> Generation:
    return made.submit(EngineRequest(job.prompt, greedy(job.output_tokens)), listen)


def run_all(bench: Bench, made: TransformersEngine, jobs: list[Job]) -> tuple[list[tuple[int, ...]], float]:
    """The tokens of each, and seconds for all of them together."""
    began = time.perf_counter()
    handles = [submit(made, job) for job in jobs]
    outputs = [handle.result(max(60.0, bench.left_s)).completions[0].token_ids for handle in handles]
    return outputs, time.perf_counter() - began


class Watch:
    """When the tokens of a request came."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.first = threading.Event()

    def __call__(self, delta: Delta) -> None:
        self.times += [time.perf_counter()] * delta.token_count
        self.first.set()

    def gaps(self) -> list[tuple[float, float]]:
        """From when to when."""
        return list(pairwise(self.times))


def random_prompt(bench: Bench, tokens: int, seed: int) -> tuple[int, ...]:
    dice = random.Random(seed)
    return tuple(dice.randrange(bench.shape.config["vocab_size"]) for _ in range(tokens))


def seconds_of(bench: Bench, work: Callable[[], object], repeats: int, rounds: int = 5) -> float:
    """Median of the time that one call of ``work`` takes, by ``rounds`` of ``repeats`` calls in a row; warm before."""
    work()
    work()
    taken = []
    for _ in range(rounds):
        bench.wait()
        began = time.perf_counter()
        for _ in range(repeats):
            work()
        bench.wait()
        taken.append((time.perf_counter() - began) / repeats)
    return statistics.median(taken)
