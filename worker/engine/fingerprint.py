"""A name for all that an answer depends on besides its request, as OpenAI's ``system_fingerprint``."""

from __future__ import annotations

import hashlib
import json
from importlib import metadata

import torch
import transformers

from worker.engine.config import EngineConfig
from worker.engine.loading import LoadedWeights
from worker.engine.memory import Capacity

_SAMPLE = 8  # values of a weight, evenly spread: enough to tell two trainings of one architecture apart


def system_fingerprint(config: EngineConfig, weights: LoadedWeights, weights_digest: str, capacity: Capacity) -> str:
    """``fp_`` and ten hexadecimal digits.

    It covers what may change a token: the versions of this project, torch and transformers, the model's name, revision and
    weights, the number type, the device's name, threads and packing. Slots and token budget shape the batches, which matters
    only without the deterministic mode. weights_digest: from ``digest``, of the model as loaded.
    """
    parts = {
        "version": metadata.version("smarttextgen"),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "model": config.model_id,
        "revision": weights.revision,
        "weights": weights_digest,
        "dtype": str(weights.dtype),
        "device": _device_name(weights.device),
        "threads": torch.get_num_threads(),
        "packing": config.pack_weights,
        "deterministic": config.deterministic,
    }
    if not config.deterministic:
        parts |= {"slots": capacity.slots, "token_budget": capacity.token_budget}
    return f"fp_{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:10]}"


def digest(model: torch.nn.Module) -> str:
    """Of names, shapes, types and a few values of each weight: a file of gigabytes is not read again for this."""
    found = hashlib.sha256()
    for name, weight in model.state_dict().items():
        flat = weight.reshape(-1)
        spread = torch.linspace(0, flat.numel() - 1, min(_SAMPLE, flat.numel()), device=flat.device).long()
        found.update(f"{name} {tuple(weight.shape)} {weight.dtype} {flat[spread].float().tolist()}\n".encode())
    return found.hexdigest()


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu {torch.backends.cpu.get_cpu_capability()}"
