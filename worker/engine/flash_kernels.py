"""The attention kernels that torch brings for CUDA, behind one form (``paged_attention.Kernel``).

torch.nn.attention.varlen calls FlashAttention (Dao, "FlashAttention-2", 2023) through one operator, which is called here too: that
function fills a tensor more at every call, and always asks for a causal mask, with which the operator leaves its fast path for
decoding. What of it there is depends on the release: 2.11 reads keys by start and length of each row, from 2.12 or 2.13 on it knows
block tables too (pages of a multiple of 256 tokens). So what is there is found out and compared with plain arithmetic at start.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import accumulate

import torch

from worker.engine.cache import KeyValueShape
from worker.engine.paged_attention import Kernel, plain_kernel
from worker.engine.paged_cache import Part

logger = logging.getLogger(__name__)

PAGE = 256  # the smallest page of FlashAttention 2
_flash = torch.ops.aten._flash_attention_forward.default  # noqa: SLF001  # as said above
_TOLERANCE = 2e-2  # of the largest output; half precision gives about 1e-3
_MOST_HEAD_DIM = 256
_LONGEST = 3 * PAGE  # tokens of the longest row that is tried


@dataclass(frozen=True, slots=True)
class Found:
    """A kernel, and the pages that it reads: ``page_size`` None means that a row has to lie in one page."""

    kernel: Kernel
    page_size: int | None
    name: str


def find(shapes: list[KeyValueShape], heads: int, device: torch.device) -> Found | str:
    """The best kernel for a model with ``heads`` query heads; or why there is none."""
    reason = _reason_against(shapes, device)
    if reason:
        return reason
    tries = [Found(by_rows, None, "FlashAttention over rows")]
    if "block_table" in _parameters():
        tries.insert(0, Found(by_pages, PAGE, f"FlashAttention over pages of {PAGE}"))
    for found in tries:
        try:
            difference = max(_difference(found, shape, heads, device) for shape in set(shapes))
        except Exception as error:  # noqa: BLE001  # a private operator of whatever release: its errors are not known
            logger.warning("%s does not run here: %s: %s", found.name, type(error).__name__, error)
            continue
        if difference <= _TOLERANCE:  # so that NaN is caught too
            return found
        logger.warning("%s is off by %.1g here, and not used.", found.name, difference)
    return "no kernel of this torch computed what it should"


def by_pages(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, part: Part, scale: float, window: int
) -> torch.Tensor:
    """The ``Kernel`` for pages of a multiple of 256 tokens."""
    grouped = query.shape[1] != keys.shape[2]
    # torch 2.13 splits a row's keys among blocks wrongly unless query heads are folded into the batch, which it does for
    # single queries of grouped heads only (pytorch issue 194167).
    splits = {} if part.longest_q == 1 and grouped and window < 0 else {"num_splits": 1}
    if "num_splits" not in _parameters():
        splits = {}
    return _call(query, keys, values, part, scale, window, block_table=part.table, **splits)


def by_rows(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, part: Part, scale: float, window: int
) -> torch.Tensor:
    """The ``Kernel`` where every row lies in one page, of any size."""
    return _call(query, keys.flatten(0, 1), values.flatten(0, 1), part, scale, window)


def _call(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    part: Part,
    scale: float,
    window: int,
    **more: object,
) -> torch.Tensor:
    single = part.longest_q == 1  # what it may see is all that there is: no mask, and the fast path
    windows = {"window_size_left": window - 1, "window_size_right": 0} if window >= 0 else {}
    result: torch.Tensor = _flash(
        query, keys, values, part.starts_q, part.starts_k, part.longest_q, part.longest_k, 0.0, not single, False,
        scale=scale, seqused_k=part.used, **windows, **more,
    )[0]  # fmt: skip
    return result


def _parameters() -> frozenset[str]:
    return frozenset(argument.name for argument in _flash._schema.arguments)  # noqa: SLF001  # as said above


def _reason_against(shapes: list[KeyValueShape], device: torch.device) -> str:
    """What of the model or the device the kernels do not take; empty where nothing stands against them."""
    if device.type != "cuda":
        return "the device is no GPU"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "FlashAttention needs compute capability 8.0"
    if any(shape.dtype not in (torch.float16, torch.bfloat16) for shape in shapes):
        return "FlashAttention computes in float16 and bfloat16 only"
    if any(s.key_dim != s.value_dim or s.key_dim > _MOST_HEAD_DIM or s.key_dim % 8 for s in shapes):
        return "FlashAttention does not take heads of this size"
    if "seqused_k" not in _parameters():
        return f"the attention of torch {torch.__version__} takes no lengths of rows"
    return ""


def _difference(found: Found, shape: KeyValueShape, heads: int, device: torch.device) -> float:
    """The largest difference to plain arithmetic, as a share of the largest output: of rows that decode, and of whole and later
    chunks, across the bounds of pages."""
    page_size = found.page_size or _LONGEST
    scale, differences = shape.key_dim**-0.5, []
    for lengths, used in (([1] * 5, [1, PAGE - 1, PAGE, PAGE + 1, _LONGEST]), ([7, 300, 64], [7, 500, _LONGEST])):
        part = _scattered(lengths, used, page_size, device)
        keys, values, query = (
            torch.randn(size, dtype=shape.dtype, device=device)
            for size in (
                (int(part.table.max()) + 1, page_size, shape.heads, shape.key_dim),
                (int(part.table.max()) + 1, page_size, shape.heads, shape.value_dim),
                (sum(lengths), heads, shape.key_dim),
            )
        )
        for window in (-1, 33):
            got = found.kernel(query, keys, values, part, scale, window).float()
            want = plain_kernel(query.float(), keys.float(), values.float(), part, scale, window)
            differences.append((got - want).abs().max() / want.abs().max())
    return float(torch.stack(differences).max())  # NaN if any is


def _scattered(lengths: list[int], used: list[int], page_size: int, device: torch.device) -> Part:
    """Rows whose pages lie in no order."""
    rows, width = len(used), -(-_LONGEST // page_size)
    order = torch.randperm(rows * width, device=device).to(torch.int32) + 1
    table = order.view(rows, width)
    starts_k = torch.cat((table[:, 0] * page_size, table.new_zeros(1)))
    starts_q = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
    lengths_k = torch.tensor(used, dtype=torch.int32, device=device)
    return Part(starts_q, lengths_k, table, starts_k, max(lengths), _LONGEST)
