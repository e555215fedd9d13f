"""From loaded weights to a runner over pages: the kernel, how many pages fit, and whether all that computes what it should."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from shared.errors import ModelLoadError
from worker.engine import flash_kernels, paged_attention, probe
from worker.engine.cache import KeyValueShape
from worker.engine.config import EngineConfig
from worker.engine.loading import LoadedWeights
from worker.engine.memory import Capacity
from worker.engine.paged_attention import Kernel
from worker.engine.paged_cache import PagedCache
from worker.engine.paged_forward import PagedForward
from worker.engine.paged_runner import PagedRunner
from worker.engine.row_sampling import RowSamplings

logger = logging.getLogger(__name__)

_GIB = 1024**3
_ROWS = 256
_TOKEN_BUDGET = 2048
_SMALLEST_CONTEXT = 2048
_COUNTED = 256  # tokens; what a row is counted by where its page is as long as the context
_CPU_BYTES = 64 * 1024**2  # tests run this there, with small models
_SHARE = 0.92  # of what is free beside the largest step; the rest is for the allocator's gaps


@dataclass(frozen=True, slots=True)
class PagedOptions:
    """kernel, page_size: None finds them. graphs: replay decoding steps as CUDA graphs. compiler: a backend of torch.compile
    (``inductor``), which fuses the model's small kernels; None leaves the model as it is."""

    kernel: Kernel | None = None
    page_size: int | None = None
    graphs: bool = True
    compiler: str | None = None


def build(
    config: EngineConfig,
    weights: LoadedWeights,
    expected: probe.Reference,
    context: int,
    samplings: RowSamplings,
    options: PagedOptions,
) -> tuple[PagedRunner, Capacity] | None:
    """A warm runner, and what it has room for; None, and a line in the log, where no kernel fits the model or the device.

    context: the most tokens of a row that the model allows. samplings: as ``ModelRunner`` has them. Raises: ModelLoadError if the
    memory is too small, or if what is computed is not what the model computes.
    """
    model, device = weights.model, weights.device
    found = _kernel(model, expected.shapes, device, options)
    if isinstance(found, str):
        logger.info("Keys and values are kept in slots, not in pages: %s.", found)
        return None
    _use_paged_attention(model)
    capacity, page_size = _capacity(config, weights, expected.shapes, context, found)
    pages = capacity.kv_tokens // page_size + 1  # and the scratch page
    cache = PagedCache(expected.shapes, pages, page_size, device)
    logger.info(
        "%s on %s, %s: %d tokens fit (%.2f GiB for keys and values), in at most %d rows of at most %d; %s.",
        config.model_id, device, weights.dtype, capacity.kv_tokens,
        pages * page_size * _bytes_per_token(expected.shapes) / _GIB, capacity.slots, capacity.context, found.name,
    )  # fmt: skip  # one value a line says no more
    reuses = config.prefix_cache_bytes != 0 and not _has_windows(model)
    paged = PagedForward(model, cache, device, found.kernel, capacity.slots, capacity.context)
    probe.compare(paged.probe, model, expected)
    if options.compiler is not None:
        _compile(paged, model, expected, options.compiler)
    if options.graphs and device.type == "cuda":
        paged.record()
        probe.compare(paged.probe, model, expected)
    return PagedRunner(model, device, paged, samplings, reuses=reuses), capacity


def _kernel(
    model: PreTrainedModel, shapes: list[KeyValueShape], device: torch.device, options: PagedOptions
) -> flash_kernels.Found | str:
    if options.kernel is not None:
        return flash_kernels.Found(options.kernel, options.page_size, "a given kernel")
    heads = int(model.config.get_text_config().num_attention_heads)
    return flash_kernels.find(shapes, heads, device)


def _has_windows(model: PreTrainedModel) -> bool:
    """With a sliding window a NaN may lie where the row's own logits do not show it, so its pages cannot be trusted."""
    config = model.config.get_text_config()
    types = getattr(config, "layer_types", None)
    return "sliding_attention" in types if types else getattr(config, "sliding_window", None) is not None


def _use_paged_attention(model: PreTrainedModel) -> None:
    paged_attention.register()
    try:
        model.set_attn_implementation(paged_attention.NAME)
    except Exception as error:
        raise probe.unsupported(model, error) from error
    if model.config._attn_implementation != paged_attention.NAME:  # noqa: SLF001  # transformers has no public reader
        raise probe.unsupported(model, "its attention cannot be exchanged")


def _capacity(
    config: EngineConfig, weights: LoadedWeights, shapes: list[KeyValueShape], context: int, found: flash_kernels.Found
) -> tuple[Capacity, int]:
    """What fits, and the tokens of a page. Raises: ModelLoadError if that is not even one row."""
    slots, budget = config.slots or _ROWS, config.token_budget or _TOKEN_BUDGET
    context = min(config.max_context or context, context)
    bytes_per_token = _bytes_per_token(shapes)
    size = config.kv_cache_bytes or _free_bytes(weights, shapes, slots, min(budget, context), found)
    tokens = size // bytes_per_token
    if found.page_size is not None:
        # Rows of any length share what there is: the context is shortened only where not even one row of it would fit.
        pages = min(tokens // found.page_size - 1, slots * -(-context // found.page_size))
        if config.max_context is None:
            context = min(context, pages * found.page_size)
        capacity, page_size = (
            Capacity(slots, context, budget, pages * found.page_size, found.page_size),
            found.page_size,
        )
    else:
        # Every row lies in a page of its own: rather shorter rows than fewer of them, within reason.
        if config.max_context is None:
            context = min(context, max(tokens // (slots + 1), _SMALLEST_CONTEXT))
        page_size = context
        slots = min(slots, tokens // page_size - 1)
        capacity = Capacity(slots, context, budget, slots * context, min(_COUNTED, context))
    if capacity.slots < 1 or capacity.context < 1 or capacity.kv_tokens < capacity.context:
        raise ModelLoadError(
            f"A row of {context or page_size} tokens takes {(context or page_size) * bytes_per_token / _GIB:.2f} GiB for keys "
            f"and values, and {size / _GIB:.2f} GiB are there. Lower the context, or allow more memory."
        )
    return capacity, page_size


def _free_bytes(
    weights: LoadedWeights, shapes: list[KeyValueShape], rows: int, tokens: int, found: flash_kernels.Found
) -> int:
    """What is free on the device beside the largest step, which is run once to see what it takes."""
    device = weights.device
    if device.type != "cuda":
        return _CPU_BYTES
    page_size = found.page_size or tokens
    cache = PagedCache(shapes, -(-tokens // page_size) + 1, page_size, device)
    paged = PagedForward(weights.model, cache, device, found.kernel, rows, tokens)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    paged.largest_step(tokens, rows)
    peak = torch.cuda.max_memory_allocated(device) - before
    del paged, cache
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return int((free - 2 * peak) * _SHARE)  # CUDA graphs keep memory of their own for a step


def _bytes_per_token(shapes: list[KeyValueShape]) -> int:
    return sum(shape.bytes_per_token for shape in shapes)


def _compile(paged: PagedForward, model: PreTrainedModel, expected: probe.Reference, compiler: str) -> None:
    """Compile, and prove that it still computes the same; the plain model stays where either fails."""
    started = time.perf_counter()
    try:
        paged.compile(compiler)
        probe.compare(paged.probe, model, expected)
    except Exception:
        logger.exception("torch.compile does not work for this model here; it runs uncompiled.")
        paged.use(model)
    else:
        logger.info("Compiled in %.0f s.", time.perf_counter() - started)
