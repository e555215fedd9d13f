"""LoRA adapters as vLLM wants them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vllm.lora.request import LoRARequest

from shared.errors import ModelLoadError

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM reserves room for


def lora_requests(adapters: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """By name, what vLLM is told with a request."""
    return {name: LoRARequest(name, at, str(_folder(folder))) for at, (name, folder) in enumerate(adapters, start=1)}


def lora_limits(adapters: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """vLLM's arguments for these adapters, which all fit one batch. Raises: ModelLoadError."""
    if not adapters:
        return {}
    if len({name for name, _ in adapters}) < len(adapters) or not all(name for name, _ in adapters):
        raise ModelLoadError("Each adapter needs a name of its own.", param="adapters")
    most = max(_rank(name, folder) for name, folder in adapters)
    fitting = [rank for rank in _RANKS if rank >= most]
    if not fitting:
        raise ModelLoadError(f"An adapter has rank {most}, and vLLM takes at most {_RANKS[-1]}.", param="adapters")
    # One place more than there are adapters, which stays empty. On a CPU (0.32) a row without an adapter that runs beside one with
    # is given the last place, by its index -1: the last adapter's weights, were it taken.
    return {"enable_lora": True, "max_loras": len(adapters) + 1, "max_lora_rank": fitting[0]}


def _rank(name: str, folder: str) -> int:
    try:
        config = json.loads((_folder(folder) / "adapter_config.json").read_text(encoding="utf-8"))
        return max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelLoadError(
            f"Adapter {name!r} cannot be read from {folder!r}: {error}. It must be a folder as peft saves it.",
            param="adapters",
        ) from error


def _folder(folder: str) -> Path:
    return Path(folder).expanduser()
