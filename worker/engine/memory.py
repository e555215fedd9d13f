"""How many tokens fit: slots times context, from what the device has."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from shared.errors import ModelLoadError
from worker.engine.config import EngineConfig
from worker.engine.host_memory import host_memory
from worker.engine.protocol import DeviceMemory

_GIB = 1024**3
_SLOTS = {"cpu": 32, "cuda": 64}
_TOKEN_BUDGET = {"cpu": 128, "cuda": 2048}
_MOST_ON_CPU = 4 * _GIB
_SHARE = {"cpu": 0.5, "cuda": 0.8}  # of what is free once the weights are there; the rest is for activations and others
_SMALLEST_CONTEXT = 2048  # with a long-context model, shorten the context to this before giving up slots


@dataclass(frozen=True, slots=True)
class Capacity:
    """Rows at once, tokens a row holds, prompt tokens computed in one step."""

    slots: int
    context: int
    token_budget: int


def choose_capacity(
    config: EngineConfig, model_context: int, bytes_per_token: int, device: torch.device
) -> tuple[Capacity, int]:
    """The capacity, and the bytes that its keys and values take.

    Context is shortened before slots are given up, and slots before the context falls under 2,048 tokens; what the
    configuration fixes is not touched. Raises: ModelLoadError if that does not fit.
    """
    budget = config.kv_cache_bytes or _free_bytes(device)
    tokens = budget // bytes_per_token
    slots = config.slots or _SLOTS[device.type]
    context = min(config.max_context or model_context, model_context)
    if config.max_context is None:
        context = min(context, max(tokens // slots, _SMALLEST_CONTEXT))
    if config.slots is None:
        slots = max(1, min(slots, tokens // context))
    if slots * context > tokens:
        raise ModelLoadError(
            f"{slots} slots of {context} tokens take {slots * context * bytes_per_token / _GIB:.2f} GiB for keys and "
            f"values, and {budget / _GIB:.2f} GiB are there. Lower the slots or the context, or allow more memory."
        )
    capacity = Capacity(slots, context, config.token_budget or _TOKEN_BUDGET[device.type])
    return capacity, slots * context * bytes_per_token


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
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(_MOST_ON_CPU, int(available * _SHARE["cpu"]))
