"""The slot engine over transformers' own model classes: continuous batching on one thread."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from shared.errors import ModelLoadError
from worker.engine import attention, probe
from worker.engine.cache import SlotCache
from worker.engine.config import EngineConfig
from worker.engine.loading import LoadedWeights, load_weights
from worker.engine.lora import ActiveAdapters, adapt, read_adapters
from worker.engine.memory import Capacity, choose_capacity, device_memory
from worker.engine.model_runner import ModelRunner
from worker.engine.packing import pack_linears
from worker.engine.protocol import EngineInfo, EngineRequest
from worker.engine.runner import LoadedModel
from worker.engine.slot_engine import SlotEngine
from worker.engine.structured import StructureCompiler
from worker.engine.tokenization import ModelTokenization

logger = logging.getLogger(__name__)

# Parameters. The products of a smaller model are over before a second thread has woken: one thread measured as fast on
# quiet cores, and many times faster on cores that others use (benchmarks/notes.md).
_ONE_THREAD_BELOW = 10_000_000


class TransformersEngine(SlotEngine):
    """An ``Engine`` over any causal model that transformers runs through its attention interface."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(lambda: load_model(config), torch.inference_mode)


def load_model(config: EngineConfig) -> LoadedModel:
    """Load, pack, allocate, and check. Raises: ModelLoadError with a sentence that says what to do."""
    weights = load_weights(config)
    _set_threads(config, weights.model)
    tokenization = ModelTokenization(weights.tokenizer)
    structures = StructureCompiler(tokenization.to_json, vocabulary_size(weights.model), end_tokens(weights))
    with torch.inference_mode():
        runner, capacity = _build_runner(config, weights, structures)
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
        adapters=tuple(name for name, _ in config.adapters),
    )
    memory = partial(device_memory, weights.device)

    def check(request: EngineRequest) -> None:
        if request.sampling.structure is not None:
            structures.check(request.sampling.structure)

    return LoadedModel(info, runner, tokenization, end_tokens(weights), memory, check)


def _set_threads(config: EngineConfig, model: PreTrainedModel) -> None:
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    elif sum(weight.numel() for weight in model.parameters()) < _ONE_THREAD_BELOW:
        torch.set_num_threads(1)


def end_tokens(weights: LoadedWeights) -> frozenset[int]:
    """Ids that end an answer: those of the generation config and of the config, or else the tokenizer's."""
    found: set[int] = set()
    for source in (weights.model.generation_config, weights.model.config.get_text_config()):
        ids = getattr(source, "eos_token_id", None)
        found.update([ids] if isinstance(ids, int) else ids or [])
    if not found and weights.tokenizer.eos_token_id is not None:
        found.add(weights.tokenizer.eos_token_id)
    return frozenset(found)


def _build_runner(
    config: EngineConfig, weights: LoadedWeights, structures: StructureCompiler
) -> tuple[ModelRunner, Capacity]:
    model, device = weights.model, weights.device
    context = model_context(model)
    expected = probe.reference(model, vocabulary_size(model), context)
    by_layer = read_adapters(model, config.adapters)
    packed = pack_linears(model, config.pack_weights) if device.type == "cpu" else 0
    bytes_per_token = sum(shape.bytes_per_token for shape in expected.shapes)
    capacity, size = choose_capacity(config, context, bytes_per_token, device)
    cache = SlotCache(expected.shapes, capacity.slots, capacity.context, device)
    logger.info(
        "%s on %s, %s: %d tokens fit (%d slots of %d), %.2f GiB for keys and values; %d layers packed.",
        config.model_id, device, weights.dtype, capacity.slots * capacity.context, capacity.slots, capacity.context,
        size / 1024**3, packed,
    )  # fmt: skip  # one value a line says no more
    _use_slot_attention(model)
    active = ActiveAdapters()
    adapt(model, by_layer, active)
    runner = ModelRunner(model, cache, device, end_tokens(weights), structures, active)
    probe.check(runner, model, expected)
    return runner, capacity


def _use_slot_attention(model: PreTrainedModel) -> None:
    attention.register()
    try:
        model.set_attn_implementation(attention.NAME)
    except Exception as error:
        raise probe.unsupported(model, error) from error
    if model.config._attn_implementation != attention.NAME:  # noqa: SLF001  # transformers has no public reader
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
