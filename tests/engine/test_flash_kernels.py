"""What is asked of FlashAttention, without a GPU: a stand-in that reads the operator's arguments as its source does
(aten/src/ATen/native/transformers/cuda/flash_attn), and torch's own check of their names and types."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from worker.engine import flash_kernels
from worker.engine.cache import KeyValueShape
from worker.engine.flash_kernels import Found, by_pages, by_rows

CPU = torch.device("cpu")
HALF = KeyValueShape(2, 64, 64, torch.float16)


def stand_in(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cum_seq_q: torch.Tensor, cum_seq_k: torch.Tensor,
    max_q: int, max_k: int, dropout_p: float, is_causal: bool, return_debug_mask: bool, *, scale: float,
    seqused_k: torch.Tensor, window_size_left: int = -1, window_size_right: int = -1,
    block_table: torch.Tensor | None = None, num_splits: int | None = None,
) -> list[torch.Tensor]:  # fmt: skip
    """mha_varlen_fwd: keys of row i start at ``cum_seq_k[i]`` or lie in its pages; masks are aligned to the last key."""
    assert (dropout_p, return_debug_mask) == (0.0, False)
    assert all(x.dtype == torch.int32 and x.is_contiguous() for x in (cum_seq_q, cum_seq_k, seqused_k))
    assert len(cum_seq_q) == len(cum_seq_k) == len(seqused_k) + 1
    if max_q == 1:
        is_causal = False
    if is_causal:
        window_size_right = 0
    out = torch.full_like(query, float("nan"))
    for row, used in enumerate(seqused_k.tolist()):
        first, last = cum_seq_q[row : row + 2].tolist()
        assert last - first <= max_q
        assert used <= max_k
        if block_table is None:
            start = int(cum_seq_k[row])
            keys, values = key[start : start + used], value[start : start + used]
        else:
            assert key.shape[1] % 256 == 0
            keys, values = (store[block_table[row].long()].flatten(0, 1)[:used] for store in (key, value))
        keys, values = (x.repeat_interleave(query.shape[1] // x.shape[1], 1).float() for x in (keys, values))
        scores = torch.einsum("qhd,khd->hqk", query[first:last].float(), keys) * scale
        now, at = torch.arange(last - first)[:, None] + used - (last - first), torch.arange(used)
        if window_size_right >= 0:
            scores = scores.masked_fill(at > now + window_size_right, -torch.inf)
        if window_size_left >= 0:
            scores = scores.masked_fill(at < now - window_size_left, -torch.inf)
        out[first:last] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), values).to(query.dtype)
    return [out]


@pytest.mark.parametrize("heads", [2, 6])
@pytest.mark.parametrize("found", [Found(by_pages, 256, "pages"), Found(by_rows, None, "rows")], ids=lambda f: f.name)
def test_both_ask_for_what_they_mean(found: Found, heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flash_kernels, "_flash", stand_in)
    monkeypatch.setattr(flash_kernels, "_parameters", lambda: {"seqused_k", "block_table", "num_splits"})
    assert flash_kernels._difference(found, HALF, heads, CPU) < 5e-3


def test_a_kernel_that_is_wrong_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flash_kernels, "_parameters", lambda: {"seqused_k"})

    def leaves_rows_out(query: torch.Tensor, *args: Any, **kwargs: Any) -> list[torch.Tensor]:
        out = stand_in(query, *args, **kwargs)[0]
        out[1] = float("nan")
        return [out]

    monkeypatch.setattr(flash_kernels, "_flash", leaves_rows_out)
    assert not flash_kernels._difference(Found(by_rows, None, "rows"), HALF, 6, CPU) <= flash_kernels._TOLERANCE


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize("heads", [2, 6])
def test_keys_are_split_only_where_torch_gets_it_right(
    heads: int, single: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch issue 194167: single queries of grouped heads, without a window."""
    asked: list[int | None] = []
    monkeypatch.setattr(flash_kernels, "_parameters", lambda: {"num_splits"})
    monkeypatch.setattr(flash_kernels, "_flash", lambda *_, num_splits=None, **__: [asked.append(num_splits)])
    part = flash_kernels._scattered([1, 1] if single else [1, 5], [9, 9], 256, CPU)
    query, keys = torch.zeros(int(part.starts_q[-1]), heads, 64), torch.zeros(7, 256, 2, 64)
    by_pages(query, keys, keys, part, 1.0, -1)
    by_pages(query, keys, keys, part, 1.0, 33)
    assert asked == [None if single and heads == 6 else 1, 1]


@pytest.mark.parametrize("kernel", [by_pages, by_rows])
@pytest.mark.parametrize("window", [-1, 33])
def test_torchs_operator_takes_these_arguments(kernel: Any, window: int) -> None:
    """On the device ``meta``, where nothing is computed but arguments are checked and shapes follow."""
    if kernel is by_pages and "block_table" not in flash_kernels._parameters():
        pytest.skip("this torch has no block tables: rows are what it is asked for")
    part = flash_kernels._scattered([1, 5, 300], [9, 9, 300], 256, CPU)
    keys = torch.empty(10, 256, 2, 64, dtype=torch.float16, device="meta")
    query = torch.empty(306, 6, 64, dtype=torch.float16, device="meta")
    meta = {name: getattr(part, name).to("meta") for name in ("starts_q", "used", "table", "starts_k")}
    on_meta = type(part)(longest_q=300, longest_k=768, **meta)
    assert kernel(query, keys, keys, on_meta, 0.1, window).shape == query.shape


def test_says_why_there_is_none() -> None:
    assert "no GPU" in str(flash_kernels.find([HALF], 6, CPU))
