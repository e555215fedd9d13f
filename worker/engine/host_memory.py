"""Memory of the machine (or the container) that a process runs in: the device's, where the device is the CPU."""

from __future__ import annotations

import os
from pathlib import Path

from worker.engine.protocol import DeviceMemory

_MEMINFO = Path("/proc/meminfo")
_STATM = Path("/proc/self/statm")
_CGROUP = Path("/sys/fs/cgroup/memory.max")


def host_memory() -> DeviceMemory | None:
    """What this process has resident, of what the container or the machine has; None where the system does not say."""
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        total = os.sysconf("SC_PHYS_PAGES") * page
        used = int(_STATM.read_text().split()[1]) * page
    except (OSError, ValueError):
        return None
    return DeviceMemory(used, min(total, _limit() or total))


def available_memory() -> int:
    """Bytes that this process could still take: of the machine, and of the container's limit."""
    try:
        fields = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        available = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError):  # another system: what nobody uses at all
        available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit, used = _limit(), host_memory()
    return available if limit is None or used is None else max(0, min(available, limit - used.used))


def _limit() -> int | None:
    try:
        return int(_CGROUP.read_text())
    except (OSError, ValueError):  # no cgroup, or no limit: the file says "max"
        return None
