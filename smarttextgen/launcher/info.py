"""What people and programs need to know of a running stack."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from smarttextgen.launcher.data_dir import write_private_json
from smarttextgen.launcher.parts import Kind
from smarttextgen.launcher.process import Part


@dataclass(frozen=True)
class StackInfo:
    """Addresses, keys and processes of a stack that is ready. ``pids`` has a list for every kind of part."""

    url: str
    api_key: str
    admin_key: str
    redis_url: str
    flower_url: str
    flower_user: str
    flower_password: str
    data_dir: str
    pids: dict[str, list[int]]

    def as_json(self) -> dict[str, object]:
        return asdict(self)

    def write(self, paths: Iterable[Path]) -> None:
        """Write the ready file to each of ``paths``, whole or not at all, mode 0600."""
        for path in paths:
            write_private_json(path, self.as_json())


def pids_by_kind(parts: Iterable[Part]) -> dict[str, list[int]]:
    """The pids of the running parts; every kind is there, also one that has no process."""
    pids: dict[str, list[int]] = {kind.value: [] for kind in Kind}
    for part in parts:
        if part.pid is not None:
            pids[part.spec.kind.value].append(part.pid)
    return pids
