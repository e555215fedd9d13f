"""Root-mean-square norms in one pass, where transformers takes six."""

from __future__ import annotations

import ctypes
from typing import Any

import torch

# Those of which the definition is known to be x / sqrt(mean(x^2) + epsilon) * weight.
_KNOWN = ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm", "SmolLM3RMSNorm")


class NativeRMSNorm(torch.nn.Module):
    """The norm of float32 ``x`` ``[..., dim]`` on the CPU. weight: ``[dim]``."""

    def __init__(self, weight: torch.Tensor, epsilon: float, run: Any) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight.detach().contiguous(), requires_grad=False)
        self._epsilon = epsilon
        self._run = run

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.contiguous()
        out, dim = torch.empty_like(x), x.shape[-1]
        rows, threads = x.numel() // dim, torch.get_num_threads()
        self._run(out.data_ptr(), x.data_ptr(), self.weight.data_ptr(), rows, dim, self._epsilon, threads)
        return out


def use_native_norms(model: torch.nn.Module, library: ctypes.CDLL) -> int:
    """Replace the norms of a float32 CPU model; returns how many: none where the library computes something else."""
    run: Any = library.rms_norm
    run.restype = None
    run.argtypes = [*([ctypes.c_void_p] * 3), ctypes.c_int64, ctypes.c_int64, ctypes.c_float, ctypes.c_int64]
    replaced = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__ in _KNOWN and _right(child, run):
                setattr(parent, name, _native(child, run))
                replaced += 1
    return replaced


def _native(norm: Any, run: Any) -> NativeRMSNorm:
    return NativeRMSNorm(norm.weight, norm.variance_epsilon, run)


def _right(norm: Any, run: Any) -> bool:
    x = torch.randn(3, norm.weight.shape[0], generator=torch.Generator().manual_seed(2))
    return norm.weight.dtype == torch.float32 and torch.allclose(norm(x), _native(norm, run)(x), atol=1e-5)
