"""How many tokens fit, from what the device has free: that is the limit, not slots times context."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from shared.errors import ModelLoadError
from worker.engine.cache import KeyValueShape
from worker.engine.config import EngineConfig
from worker.engine.host_memory import available_memory, host_memory
from worker.engine.protocol import DeviceMemory

_GIB = 1024**3
_SLOTS = {"cpu": 64, "cuda": 64}
_TOKEN_BUDGET = {"cpu": 256, "cuda": 2048}
_MOST_ON_CPU = 4 * _GIB
_SHARE = {"cpu": 0.5, "cuda": 0.8}  # of what is free once the weights are there; the rest is for activations and others
_PAGE = 16  # tokens
_SMALLEST_CONTEXT = 2048
_PREFIX_PART = 8  # one part in so many is for prefixes


@dataclass(frozen=True, slots=True)
class Capacity:
    """Rows at once, tokens that a row may have, prompt tokens computed in one step; tokens of all rows that fit in memory,
    whole pages, and tokens in a page; bytes for what is kept of rows that are over."""

    slots: int
    context: int
    token_budget: int
    kv_tokens: int
    kv_page: int
    prefix_bytes: int = 0


def choose_capacity(
    config: EngineConfig, model_context: int, shapes: Sequence[KeyValueShape], device: torch.device
) -> Capacity:
    """What the memory allows, with what the configuration fixes left as it is.

    On a CPU slots and context cost nothing by themselves: where rows would take more than is there, some of them wait. So the
    context is shortened only where not even one row of it would fit. Raises: ModelLoadError if the context was fixed at more
    than that, or if nothing fits at all.
    """
    budget = config.kv_cache_bytes or _free_bytes(device)
    bytes_per_token = sum(shape.bytes_per_token for shape in shapes)
    prefix = budget // _PREFIX_PART if config.prefix_cache_bytes is None else config.prefix_cache_bytes
    rows = max(0, budget - prefix)
    page = _page_tokens(shapes, device)
    pages = rows // (bytes_per_token * page)
    context = min(config.max_context or model_context, model_context)
    if config.max_context is None:
        context = min(context, pages * page)
    if not 0 < context <= pages * page:
        raise ModelLoadError(
            f"One row of {context or page} tokens takes {(context or page) * bytes_per_token / _GIB:.2f} GiB for keys and "
            f"values, and {rows / _GIB:.2f} GiB are there beside those of prefixes. Lower the context, or allow more memory."
        )
    slots = config.slots or min(_SLOTS[device.type], pages)
    if device.type != "cpu":
        slots, context = _whole_slots(config, slots, context, pages * page)
    pages = min(pages, slots * -(-context // page))
    budget_tokens = config.token_budget or _TOKEN_BUDGET[device.type]
    return Capacity(slots, context, budget_tokens, pages * page, page, prefix)


def _whole_slots(config: EngineConfig, slots: int, context: int, tokens: int) -> tuple[int, int]:
    """Slots and context where a slot takes all its memory at once, as on a GPU that cannot have pages: the context is shortened
    before slots are given up, and slots before it falls under 2,048 tokens. Raises: ModelLoadError if that does not fit."""
    if config.max_context is None:
        context = min(context, max(tokens // slots, _SMALLEST_CONTEXT))
    if config.slots is None:
        slots = max(1, min(slots, tokens // context))
    if slots * context > tokens:
        raise ModelLoadError(
            f"{slots} slots of {context} tokens do not fit the memory for keys and values, which holds {tokens}. Lower the slots "
            "or the context, or allow more memory."
        )
    return slots, context


def _page_tokens(shapes: Sequence[KeyValueShape], device: torch.device) -> int:
    """On a CPU a page is what the system gives: one of its pages holds so many tokens of a head."""
    if device.type != "cpu":
        return _PAGE
    smallest = min(min(shape.key_dim, shape.value_dim) * shape.dtype.itemsize for shape in shapes)
    return max(_PAGE, -(-mmap.PAGESIZE // smallest))


def device_memory(device: torch.device) -> DeviceMemory | None:
    """What is in use now."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return DeviceMemory(total - free, total)
    return host_memory()


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free * _SHARE["cuda"])
    return min(_MOST_ON_CPU, int(available_memory() * _SHARE["cpu"]))
