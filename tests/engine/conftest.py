"""Small random models of four families, made once a session, and engines over them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from worker.engine.config import EngineConfig
from worker.engine.factory import build_engine
from worker.engine.protocol import Delta, Engine, EngineRequest, EngineResult, Generation, OnDelta, SamplingParams

FAMILIES = ("gpt2", "llama", "qwen2", "qwen3")
VLLM = pytest.param(
    "vllm", marks=pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed; make test-vllm has it")
)
CONTEXT = 256
SENTENCES = [
    "The quick brown fox jumps over the lazy dog, and the dog does not mind at all.",
    "Please write a short summary of the following text in three sentences.",
    "今天天氣很好，我們一起去公園散步吧。機器學習是人工智慧的一個分支。",
    "Emoji are text too: 😀 🎉 👩‍🚀 and so are accents: café, naïve, Zürich.",
]
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session", autouse=True)
def _one_torch_thread() -> None:
    """Tiny models gain nothing from two threads, and on a busy machine they wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer; ``<|endoftext|>``, ``<|im_start|>`` and ``<|im_end|>`` are 0, 1 and 2."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES * 4, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")
    fast.chat_template = CHAT_TEMPLATE
    return fast


def tiny_model(family: str, vocab_size: int, **changes: Any) -> Any:
    """A two-layer model with weights large enough for varied answers. Its end-of-text token is 0."""
    torch.manual_seed(7)
    if family == "gpt2":
        shape = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT, "vocab_size": vocab_size}
        gpt2 = GPT2Config(**(shape | {"bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.3} | changes))
        return GPT2LMHeadModel(gpt2)
    common = {
        "vocab_size": vocab_size, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT, "bos_token_id": 0,
        "eos_token_id": 0, "tie_word_embeddings": family == "qwen2", "initializer_range": 0.3,
    }  # fmt: skip
    if family == "llama":
        return LlamaForCausalLM(LlamaConfig(**(common | changes)))
    if family == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**(common | changes)))
    return Qwen3ForCausalLM(Qwen3Config(**(common | {"head_dim": 32} | changes)))


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> dict[str, Path]:
    """A model folder for each family."""
    made = {}
    for family in FAMILIES:
        folder = tmp_path_factory.mktemp(family)
        tiny_model(family, len(tokenizer)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        made[family] = folder
    return made


def small_config(folder: Path, **changes: Any) -> EngineConfig:
    """Four slots, and a budget so small that most prompts take more than one step."""
    values: dict[str, Any] = {"model_id": str(folder), "device": "cpu", "slots": 4, "token_budget": 16, "threads": 1}
    return EngineConfig(**(values | changes))


@pytest.fixture(scope="session")
def shared_engine(folders: dict[str, Path]) -> Iterator[Callable[[str], Engine]]:
    """A started engine for a family, the same all session. Leave it as you found it."""
    engines: dict[str, Engine] = {}

    def get(family: str) -> Engine:
        if family not in engines:
            engines[family] = build_engine(small_config(folders[family]))
            engines[family].start()
        return engines[family]

    yield get
    for engine in engines.values():
        engine.shutdown()


def paged_engine(folder: Path, page_size: int | None = 8, compiler: str | None = None, **changes: Any) -> Engine:
    """The engine for GPUs, here with a kernel in plain torch, and small pages."""
    from worker.engine.paged_attention import plain_kernel
    from worker.engine.paged_build import PagedOptions
    from worker.engine.transformers_engine import TransformersEngine

    options = PagedOptions(kernel=plain_kernel, page_size=page_size, compiler=compiler)
    return TransformersEngine(small_config(folder, **changes), paged=options)


@pytest.fixture
def new_engine(folders: dict[str, Path]) -> Iterator[Callable[..., Any]]:
    """Start an engine that the test may break: ``new_engine("gpt2", slots=2)``, ``new_engine("paged")`` or ``new_engine("echo")``."""
    engines: list[Engine] = []

    def make(kind: str, **changes: Any) -> Engine:
        if kind == "echo":
            engine = build_engine(EngineConfig(**({"engine": "echo", "slots": 4, "echo_context": CONTEXT} | changes)))
        elif kind == "paged":
            engine = paged_engine(folders["gpt2"], **changes)
        else:
            engine = build_engine(small_config(folders[kind], **changes))
        engine.start()
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.shutdown()


@pytest.fixture(scope="session")
def vllm_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A model whose heads are of a size that vLLM has kernels for on a CPU."""
    folder = tmp_path_factory.mktemp("vllm")
    tiny_model("qwen2", len(tokenizer), num_attention_heads=2, num_key_value_heads=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def vllm_config(folder: Path, **changes: Any) -> EngineConfig:
    """As ``small_config``, uncompiled, in little memory."""
    return small_config(folder, **({"engine": "vllm", "enforce_eager": True, "kv_cache_bytes": 2**26} | changes))


@pytest.fixture(scope="session")
def vllm_engine(vllm_folder: Path) -> Iterator[Callable[[], Engine]]:
    """A started vLLM, the same as long as it is healthy: it takes half a minute to load."""
    engines: list[Engine] = []

    def get() -> Engine:
        if not engines or not engines[-1].healthy():
            engines.append(build_engine(vllm_config(vllm_folder)))
            engines[-1].start()
        return engines[-1]

    yield get
    for engine in engines:
        engine.shutdown()


class Listener:
    """An ``on_delta`` that keeps what it hears, and can hold the engine's thread at its first delta."""

    def __init__(self, hold: bool = False) -> None:
        self.deltas: list[Delta] = []
        self.heard = threading.Event()
        self.go = threading.Event()
        if not hold:
            self.go.set()

    def __call__(self, delta: Delta) -> None:
        self.deltas.append(delta)
        self.heard.set()
        assert self.go.wait(20)

    def text(self, index: int = 0) -> str:
        return "".join(delta.text for delta in self.deltas if delta.index == index)


def greedy(max_tokens: int, **changes: Any) -> SamplingParams:
    """Greedy to ``max_tokens``, whatever the model says."""
    return SamplingParams(**({"max_tokens": max_tokens, "temperature": 0.0, "ignore_eos": True} | changes))


def submit(
    engine: Engine, prompt: tuple[int, ...], params: SamplingParams, listen: OnDelta | None = None
) -> Generation:
    return engine.submit(EngineRequest(prompt, params), listen)


def run(engine: Engine, prompt: tuple[int, ...], params: SamplingParams, listen: OnDelta | None = None) -> EngineResult:
    return submit(engine, prompt, params, listen).result(30)
