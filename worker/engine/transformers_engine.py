"""The slot engine over transformers' own model classes: continuous batching on one thread."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from shared.errors import ModelLoadError
from worker.engine import attention, deterministic, native, paged_build, probe
from worker.engine.cache import SlotCache
from worker.engine.config import EngineConfig
from worker.engine.contents import contents
from worker.engine.deterministic import TileRunner
from worker.engine.fingerprint import fingerprint
from worker.engine.fusing import fuse_activations, fuse_into_packed
from worker.engine.huge_pages import use_huge_pages
from worker.engine.llama_layers import use_llama_layers
from worker.engine.loading import LoadedWeights, declared_ends, load_weights
from worker.engine.lora import ActiveAdapters, adapt, read_adapters
from worker.engine.memory import Capacity, choose_capacity, device_memory
from worker.engine.model_runner import ModelRunner
from worker.engine.native import decode
from worker.engine.native.norms import use_native_norms
from worker.engine.packing import pack_linears, packed_layers, packing_works, warm
from worker.engine.paged_build import PagedOptions
from worker.engine.prefix_cache import PrefixCache, block_bytes
from worker.engine.protocol import EngineInfo, EngineRequest
from worker.engine.row_sampling import RowSamplings
from worker.engine.runner import LoadedModel
from worker.engine.slot_engine import SlotEngine
from worker.engine.structured import StructureCompiler
from worker.engine.tokenization import ModelTokenization

logger = logging.getLogger(__name__)

# Parameters. The products of a smaller model are over before a second thread has woken: one thread measured as fast on
# quiet cores, and many times faster on cores that others use (benchmarks/notes.md).
_ONE_THREAD_BELOW = 10_000_000

Load = Callable[[EngineConfig], LoadedWeights]


class TransformersEngine(SlotEngine):
    """An ``Engine`` over any causal model that transformers runs through its attention interface.

    load: gives the weights; a benchmark hands in a model that it has made. paged: how to keep keys and values in pages; None is
    pages on CUDA, where they can be had, and slots elsewhere.
    """

    def __init__(self, config: EngineConfig, load: Load = load_weights, paged: PagedOptions | None = None) -> None:
        super().__init__(lambda: load_model(config, load, paged), torch.inference_mode)


def load_model(config: EngineConfig, load: Load = load_weights, paged: PagedOptions | None = None) -> LoadedModel:
    """Load, pack, allocate, and check. Raises: ModelLoadError with a sentence that says what to do."""
    weights = load(config)
    _set_threads(config, weights.model)
    made_of = contents(config, weights.revision)
    tokenization = ModelTokenization(weights.tokenizer)
    structures = StructureCompiler(tokenization.to_json, vocabulary_size(weights.model), end_tokens(weights))
    with torch.inference_mode():
        runner, capacity = _build_runner(config, weights, RowSamplings(end_tokens(weights), structures), paged)
    info = EngineInfo(
        engine="transformers",
        model=config.model_id,
        revision=weights.revision,
        device=str(weights.device),
        dtype=str(weights.dtype).removeprefix("torch."),
        context_length=capacity.context,
        vocab_size=vocabulary_size(weights.model),
        slots=capacity.slots,
        token_budget=capacity.token_budget,
        has_chat_template=bool(weights.tokenizer.chat_template),
        kv_tokens=capacity.kv_tokens,
        kv_page=capacity.kv_page,
        system_fingerprint=_fingerprint(config, weights, made_of, runner, capacity),
        contents=made_of,
        adapters=tuple(name for name, _ in config.adapters),
    )
    memory = partial(device_memory, weights.device)

    def check(request: EngineRequest) -> None:
        if request.sampling.structure is not None:
            structures.check(request.sampling.structure)

    return LoadedModel(info, runner, tokenization, end_tokens(weights), memory, check)


def _fingerprint(
    config: EngineConfig, weights: LoadedWeights, made_of: str, runner: ModelRunner, capacity: Capacity
) -> str:
    """Slots and budget shape the batches, which matters only where the numbers depend on the batch."""
    if weights.device.type == "cuda":
        device = torch.cuda.get_device_name(weights.device)
    else:
        device = f"cpu {torch.backends.cpu.get_cpu_capability()}"
    return fingerprint(
        torch=torch.__version__,
        transformers=transformers.__version__,
        contents=made_of,
        dtype=str(weights.dtype),
        device=device,
        threads=torch.get_num_threads(),
        packing=config.pack_weights,
        kernel=runner.kernel is not None,
        deterministic=config.deterministic,
        slots=None if config.deterministic else capacity.slots,
        token_budget=None if config.deterministic else capacity.token_budget,
    )


def _set_threads(config: EngineConfig, model: PreTrainedModel) -> None:
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    elif sum(weight.numel() for weight in model.parameters()) < _ONE_THREAD_BELOW:
        torch.set_num_threads(1)


def end_tokens(weights: LoadedWeights) -> frozenset[int]:
    """Ids that end an answer: those of the generation config and of the config, or else the tokenizer's."""
    sources: tuple[Any, ...] = (weights.model.generation_config, weights.model.config.get_text_config())
    return declared_ends(weights.tokenizer, *(getattr(source, "eos_token_id", None) for source in sources))


def _build_runner(
    config: EngineConfig, weights: LoadedWeights, samplings: RowSamplings, paged: PagedOptions | None
) -> tuple[ModelRunner, Capacity]:
    model, device = weights.model, weights.device
    context = model_context(model)
    expected = probe.reference(model, vocabulary_size(model), context)
    if (paged is not None or device.type == "cuda") and not config.deterministic and not config.adapters:
        built = paged_build.build(config, weights, expected, context, samplings, paged or PagedOptions())
        if built is not None:
            return built
    if config.adapters and config.deterministic:
        raise ModelLoadError(
            "The deterministic mode does not know adapters yet. Set one of DETERMINISTIC and ADAPTERS."
        )
    by_layer = read_adapters(model, config.adapters)
    library = _native_library(config, weights)
    packed = _optimize(model, config, library) if device.type == "cpu" else 0
    huge = use_huge_pages(model)
    capacity = choose_capacity(config, context, expected.shapes, device)
    try:
        cache = SlotCache(expected.shapes, capacity.slots, capacity.context, device, capacity.kv_tokens)
        prefix = PrefixCache(cache, capacity.prefix_bytes) if capacity.prefix_bytes >= block_bytes(cache) else None
    except MemoryError as error:
        raise ModelLoadError(f"No room for keys and values ({error}). Lower the slots or the context.") from error
    logger.info(
        "%s on %s, %s: %d tokens fit (%.2f GiB for keys and values), in at most %d rows of at most %d; %.2f GiB for "
        "prefixes; %d layers packed, %d MiB of them in huge pages.",
        config.model_id, device, weights.dtype, capacity.kv_tokens,
        capacity.kv_tokens * sum(shape.bytes_per_token for shape in expected.shapes) / 1024**3,
        capacity.slots, capacity.context, capacity.prefix_bytes / 1024**3, packed, huge // 1024**2,
    )  # fmt: skip  # one value a line says no more
    attention.register()
    deterministic.register()
    _use_attention(model, deterministic.ATTENTION if config.deterministic else attention.NAME)
    kernel = None if library is None else decode.checked(library)
    active = ActiveAdapters()
    adapt(model, by_layer, active)
    runner = (TileRunner if config.deterministic else ModelRunner)(
        model, cache, device, samplings, kernel, prefix, active
    )
    probe.check(runner, model, expected)
    if packed:
        warm(model, capacity.slots + capacity.token_budget)
    if config.deterministic:
        deterministic.check(runner, vocabulary_size(model))
    return runner, capacity


def _optimize(model: PreTrainedModel, config: EngineConfig, library: ctypes.CDLL | None) -> int:
    """Exchange layers for ones that compute the same in less time on a CPU, in place; returns how many products are packed."""
    if library is not None:
        use_native_norms(model, library)
    if library is not None and not config.adapters and packing_works():
        use_llama_layers(model, library, config.pack_weights)
    pack_linears(model, config.pack_weights)
    fuse_activations(model)
    if not config.adapters:
        fuse_into_packed(model)
    return len(packed_layers(model))


def _native_library(config: EngineConfig, weights: LoadedWeights) -> ctypes.CDLL | None:
    if config.native_kernels and weights.device.type == "cpu" and weights.dtype == torch.float32:
        return native.load(torch.backends.cpu.get_cpu_capability(), config.native_kernels_dir)
    return None


def _use_attention(model: PreTrainedModel, name: str) -> None:
    try:
        model.set_attn_implementation(name)
    except Exception as error:
        raise probe.unsupported(model, error) from error
    if model.config._attn_implementation != name:  # noqa: SLF001  # transformers has no public reader
        raise probe.unsupported(model, "its attention cannot be exchanged")


def vocabulary_size(model: PreTrainedModel) -> int:
    """Ids that the model has an embedding for; some have a few more than their tokenizer."""
    embedding: Any = model.get_input_embeddings()
    return int(embedding.num_embeddings)


def model_context(model: PreTrainedModel) -> int:
    """Tokens that the model was made for. Raises: ModelLoadError where its config does not say."""
    text_config: Any = model.config.get_text_config()
    context = getattr(text_config, "max_position_embeddings", None)
    if not isinstance(context, int) or context < 16:
        raise ModelLoadError(f"{type(model).__name__} does not say how long its context is (max_position_embeddings).")
    return min(context, _fixed_rope_context(text_config, context))


def _fixed_rope_context(text_config: Any, context: int) -> int:
    """Where the rotary embedding changes with the length of the batch's longest row, a row would depend on its
    neighbours; up to the length that the model was first trained for it does not change."""
    rope = getattr(text_config, "rope_parameters", None) or {}
    if rope.get("rope_type") not in ("dynamic", "longrope"):
        return context
    original = rope.get("original_max_position_embeddings") or getattr(
        text_config, "original_max_position_embeddings", None
    )
    logger.warning(
        "The context stays at %s tokens: beyond, rotary embeddings depend on the batch.", original or context
    )
    return int(original or context)
