"""Rotary positions, in place and in one pass, where transformers takes five and copies twice."""

from __future__ import annotations

import ctypes
from typing import Any

import torch


class Rotation:
    """Turns heads by their token's position: element i together with element i + head_dim / 2."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._run: Any = library.rotate
        self._run.restype = None
        self._run.argtypes = [*([ctypes.c_void_p] * 3), *([ctypes.c_int64] * 5)]

    def __call__(self, states: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor, heads: int) -> None:
        """states: ``[1, tokens, at least heads * head_dim]``, of which the first heads are turned; cosines, sines: ``[1, tokens,
        head_dim]``. All float32 on the CPU, last dimension contiguous."""
        cosines, sines = cosines.contiguous(), sines.contiguous()
        tokens, dim = cosines.shape[1:]
        pointers = (tensor.data_ptr() for tensor in (states, cosines, sines))
        self._run(*pointers, tokens, heads, dim, states.stride(1), torch.get_num_threads())
