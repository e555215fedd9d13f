"""What decoding rows need of the slot cache, by kernels of ours: ``kernels.cpp``, called with tensors."""

from __future__ import annotations

import ctypes
from typing import Any

import torch

_FIELDS = (
    "rows", "heads", "key_heads", "key_dim", "value_dim", "query_token", "query_head", "key_slot", "key_head", "key_token",
    "value_slot", "value_head", "value_token", "window", "threads",
)  # fmt: skip


class _Shape(ctypes.Structure):
    _fields_ = [*((name, ctypes.c_int64) for name in _FIELDS), ("scale", ctypes.c_float)]


class DecodeAttention:
    """The kernels, where they could be built."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._run: Any = library.decode_attention
        self._run.restype = None
        self._run.argtypes = [*([ctypes.c_void_p] * 5), ctypes.POINTER(_Shape)]
        self._write: Any = library.write_rows
        self._write.restype = None
        self._write.argtypes = [*([ctypes.c_void_p] * 4), *([ctypes.c_int64] * 8)]

    def __call__(
        self,
        out: torch.Tensor,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        positions: torch.Tensor,
        scale: float,
        window: int | None,
    ) -> None:
        """Row r attends to positions 0..positions[r] of slot r, or to the newest ``window`` of them.

        out: contiguous ``[rows, heads, value_dim]``. query: ``[rows, heads, key_dim]``. keys, values: ``[slots, kv_heads, max_len,
        dim]``. positions: int64 ``[rows]``. All float32 on the CPU but positions, last dimensions contiguous.
        """
        shape = _Shape(
            query.shape[0], query.shape[1], keys.shape[1], keys.shape[3], values.shape[3], query.stride(0), query.stride(1),
            *keys.stride()[:3], *values.stride()[:3], window or 0, torch.get_num_threads(), scale,
        )  # fmt: skip
        pointers = (tensor.data_ptr() for tensor in (out, query, keys, values, positions))
        self._run(*pointers, ctypes.byref(shape))

    def write(self, store: torch.Tensor, states: torch.Tensor, slots: torch.Tensor, positions: torch.Tensor) -> None:
        """Row r's state goes to ``positions[r]`` of slot ``slots[r]``.

        store: ``[slots, heads, max_len, dim]``. states: ``[heads, rows, dim]``. slots, positions: int64 ``[rows]``. The first two
        float32 on the CPU, last dimensions contiguous.
        """
        heads, rows, dim = states.shape
        pointers = (tensor.data_ptr() for tensor in (store, states, slots, positions))
        self._write(*pointers, rows, heads, dim, states.stride(0), states.stride(1), *store.stride()[:3])


def checked(library: ctypes.CDLL) -> DecodeAttention | None:
    """None where the library computes something else than torch."""
    kernel = DecodeAttention(library)
    return kernel if _right(kernel) else None


def _right(kernel: DecodeAttention) -> bool:
    """The kernel against torch, over groups of heads and a window."""
    generator = torch.Generator().manual_seed(1)
    query, keys, values = (
        torch.randn(shape, generator=generator) for shape in ((3, 4, 24), (3, 2, 40, 24), (3, 2, 40, 20))
    )
    positions = torch.tensor([0, 17, 39])
    states = torch.randn(2, 3, 24, generator=generator)
    written = keys.clone()
    kernel.write(written, states, torch.tensor([2, 0, 1]), positions)
    for row, slot in enumerate((2, 0, 1)):
        keys[slot, :, positions[row]] = states[:, row]
    if not torch.equal(written, keys):
        return False
    for window in (None, 8):
        out = torch.empty(3, 4, 20)
        kernel(out, query, keys, values, positions, 0.2, window)
        for row, position in enumerate(positions.tolist()):
            first = max(0, position + 1 - window) if window else 0
            seen = slice(first, position + 1)
            k, v = (states[row, :, seen].repeat_interleave(2, dim=0) for states in (keys, values))
            expected = torch.softmax(query[row, :, None] @ k.transpose(1, 2) * 0.2, dim=-1) @ v
            if not torch.allclose(out[row], expected[:, 0], atol=1e-5):
                return False
    return True
