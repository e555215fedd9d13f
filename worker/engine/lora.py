"""Adapters of low rank (Hu et al., "LoRA", 2021) in the format of Hugging Face's peft, for the rows that ask for one.

An adapted layer computes ``y + (x @ A.T) @ B.T * scaling`` for the tokens of that adapter's rows. Rows of different adapters and of
none share a step; a step in which nobody asks for one pays a look at an empty list in each adapted layer. peft itself is not used: it
chooses adapters by batch row, and here a batch is one row of packed tokens.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers.pytorch_utils import Conv1D

from shared.errors import ModelLoadError
from worker.engine.packing import PackedLinear

# What may be set in adapter_config.json: understood, or of no meaning once the adapter is trained.
_UNDERSTOOD = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode",
    "layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout", "peft_type", "peft_version", "r", "rank_pattern", "revision",
    "target_modules", "task_type", "use_rslora",
}  # fmt: skip
# Settings of features that are off where these are all that is set.
_IDLE = {"bias": "none", "megatron_core": "megatron.core", "qalora_group_size": 16}
# Ways to begin a training that leave the model's own weights as they are.
_PLAIN_BEGINNINGS = (True, False, None, "gaussian", "eva", "orthogonal")
_KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")

Where = torch.Tensor | slice


@dataclass(slots=True)
class Delta:
    """What an adapter adds in one layer. down: ``[in, rank]``. up: ``[rank, out]``, the scaling in it."""

    down: torch.Tensor
    up: torch.Tensor


class ActiveAdapters:
    """Which packed tokens of the step belong to which adapter. Set by the runner before a forward, read by every adapted layer."""

    def __init__(self) -> None:
        self.parts: Sequence[tuple[str, Where]] = ()

    def set(self, names: Sequence[str | None], device: torch.device) -> None:
        """names: of each packed token's row; None for the model itself."""
        used = sorted({name for name in names if name is not None})
        self.parts = [(name, _where(names, name, device)) for name in used]

    def clear(self) -> None:
        self.parts = ()


class AdaptedLinear(torch.nn.Module):
    """A linear layer, packed or not, with what adapters add to it. x: ``[1, tokens, in]``."""

    def __init__(self, inner: torch.nn.Module, deltas: Mapping[str, Delta], active: ActiveAdapters) -> None:
        super().__init__()
        self.inner = inner
        self._deltas = dict(deltas)
        self._active = active

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.inner(x)
        for name, at in self._active.parts:
            delta = self._deltas.get(name)
            if delta is not None:
                y[:, at] += (x[:, at] @ delta.down) @ delta.up
        return y


def read_adapters(model: torch.nn.Module, adapters: Sequence[tuple[str, str]]) -> dict[str, dict[str, Delta]]:
    """Adapters by layer: ``{module path: {adapter name: delta}}``. Before layers are packed, whose shapes are checked.

    adapters: names and folders (``adapter_config.json``, ``adapter_model.safetensors``).
    Raises: ModelLoadError for a folder that is none, or an adapter that needs more than low-rank layers.
    """
    if len({name for name, _ in adapters}) < len(adapters) or not all(name for name, _ in adapters):
        raise ModelLoadError("Each adapter needs a name of its own.", param="adapters")
    by_layer: dict[str, dict[str, Delta]] = {}
    for name, folder in adapters:
        for path, delta in _read(model, name, Path(folder).expanduser()).items():
            by_layer.setdefault(path, {})[name] = delta
    return by_layer


def adapt(model: torch.nn.Module, by_layer: Mapping[str, Mapping[str, Delta]], active: ActiveAdapters) -> None:
    """Put adapted layers around the layers that adapters change, packed by now or not."""
    for path, deltas in by_layer.items():
        parent, _, child = path.rpartition(".")
        inner = model.get_submodule(path)
        setattr(model.get_submodule(parent), child, AdaptedLinear(inner, deltas, active))


def _read(model: torch.nn.Module, name: str, folder: Path) -> dict[str, Delta]:
    config, tensors = _files(name, folder)
    _check_config(name, config)
    pairs: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise _unusable(name, f"it has {key!r}, which is no low-rank weight of a linear layer")
        pairs.setdefault(match[1], {})[match[2]] = tensor
    if not pairs:
        raise _unusable(name, "it has no weights")
    return {path: _delta(model, name, path, pair, config) for path, pair in pairs.items()}


def _files(name: str, folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelLoadError(
            f"Adapter {name!r} cannot be read from {str(folder)!r}: {error}. "
            "It must be a folder with adapter_config.json and adapter_model.safetensors, as peft saves it.",
            param="adapters",
        ) from error
    if not isinstance(config, dict):
        raise _unusable(name, "its adapter_config.json is no object")
    return config, tensors


def _check_config(name: str, config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise _unusable(name, f"it is of type {config.get('peft_type')!r}, not LORA")
    beginning = config.get("init_lora_weights")
    if beginning not in _PLAIN_BEGINNINGS:
        raise _unusable(name, f"init_lora_weights {beginning!r} changes the model's own weights")
    unknown = sorted(
        key
        for key, value in config.items()
        if value and key not in _UNDERSTOOD and key != "init_lora_weights" and _IDLE.get(key) != value
    )
    if unknown:
        raise _unusable(name, f"it uses {', '.join(unknown)}")


def _delta(
    model: torch.nn.Module, name: str, path: str, pair: Mapping[str, torch.Tensor], config: Mapping[str, Any]
) -> Delta:
    try:
        layer = model.get_submodule(path)
    except AttributeError:
        raise _unusable(name, f"the model has no layer {path!r}") from None
    if path == "lm_head" or layer is getattr(model, "get_output_embeddings", lambda: None)():
        raise _unusable(name, f"it changes the output layer {path!r}")
    shape = _shape(layer)
    if shape is None:
        raise _unusable(name, f"layer {path!r} is no linear layer")
    if set(pair) != {"A", "B"}:
        raise _unusable(name, f"layer {path!r} has only one of its two weights")
    a, b = pair["A"], pair["B"]
    if (b.shape[0], a.shape[1]) != shape or a.shape[0] != b.shape[1]:
        raise _unusable(name, f"the weights of layer {path!r} have the shapes of another model")
    reference = next(layer.parameters())
    rank = a.shape[0]
    alpha = float(_patterned(config.get("alpha_pattern"), path, config.get("lora_alpha", rank)))
    scaling = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return Delta(
        a.float().T.contiguous().to(reference.device, reference.dtype),
        (b.float().T * scaling).contiguous().to(reference.device, reference.dtype),
    )


def _shape(layer: torch.nn.Module) -> tuple[int, int] | None:
    """Outputs and inputs of a plain linear layer."""
    if isinstance(layer, torch.nn.Linear):
        return layer.out_features, layer.in_features
    if isinstance(layer, Conv1D):
        return layer.weight.shape[1], layer.weight.shape[0]
    return (layer.out_features, layer.in_features) if isinstance(layer, PackedLinear) else None


def _patterned(patterns: Mapping[str, Any] | None, path: str, default: Any) -> Any:
    """The value of the first pattern that the end of ``path`` matches, as peft does it."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", path):
            return value
    return default


def _where(names: Sequence[str | None], name: str, device: torch.device) -> Where:
    at = [i for i, one in enumerate(names) if one == name]
    if len(at) == at[-1] - at[0] + 1:
        return slice(at[0], at[-1] + 1)  # a view, no copy
    return torch.tensor(at).to(device, non_blocking=True)


def _unusable(name: str, why: str) -> ModelLoadError:
    return ModelLoadError(f"Adapter {name!r} cannot be used: {why}.", param="adapters")
