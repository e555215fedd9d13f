"""Packed weights in huge pages.

A step reads every weight once, from memory, and on pages of 4 KiB it waits as much for their addresses as for the numbers, all the
more in a virtual machine, where an address is looked up twice. Pages of 2 MiB took a fifth to a third off the products of 4 or 8
rows, and some hundredths off those of 64 (benchmarks/notes.md). Linux makes them of what is there already (``MADV_COLLAPSE``, since
6.1), or in its own time.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import sys
from collections.abc import Iterable

import torch

from worker.engine.packing import packed_layers

logger = logging.getLogger(__name__)

_SIZE = 2 * 1024**2  # of a huge page on x86-64, and on aarch64 with small pages of 4 KiB
_NEAR = 64 * 1024  # what an allocator leaves between two blocks
_COLLAPSE = 25  # MADV_COLLAPSE, which Python's mmap does not name


def use_huge_pages(model: torch.nn.Module) -> int:
    """Ask for huge pages under the packed weights; returns how many bytes lie in them now. Where the system refuses, nothing
    changes."""
    if sys.platform != "linux" or not hasattr(mmap, "MADV_HUGEPAGE"):
        return 0
    try:
        madvise = ctypes.CDLL(None, use_errno=True).madvise
        ranges = [layer.memory() for layer in packed_layers(model)]
    except (AttributeError, OSError, RuntimeError) as error:  # another libc; another torch
        logger.info("No huge pages for weights (%s).", error)
        return 0
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    moved = 0
    for start, end in whole_pages(ranges):
        madvise(start, end - start, mmap.MADV_HUGEPAGE)  # for systems that cannot do it at once, but in their own time
        if madvise(start, end - start, _COLLAPSE) == 0:
            moved += end - start
    return moved


def whole_pages(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Where huge pages fit wholly into the ranges; neighbours count as one range, since a page may span two weights."""
    joined: list[list[int]] = []
    for start, end in sorted(ranges):
        if joined and start - joined[-1][1] <= _NEAR:
            joined[-1][1] = max(end, joined[-1][1])
        else:
            joined.append([start, end])
    pages = ((-(-start // _SIZE) * _SIZE, end // _SIZE * _SIZE) for start, end in joined)
    return [(start, end) for start, end in pages if end > start]
