"""The data directory: where a stack keeps what outlives it, and where the command line finds a running one."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def default_data_dir() -> Path:
    """``$XDG_DATA_HOME/smarttextgen``, else ``~/.local/share/smarttextgen``."""
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "smarttextgen"


@dataclass(frozen=True)
class DataDir:
    """The paths in a data directory."""

    root: Path

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def redis(self) -> Path:
        return self.root / "redis"

    @property
    def redis_configuration(self) -> Path:
        return self.root / "redis.conf"

    @property
    def keys_file(self) -> Path:
        return self.root / "keys.json"

    @property
    def ready_file(self) -> Path:
        """Where the command line finds a running stack."""
        return self.root / "ready.json"

    def create(self) -> None:
        """Make the folders; keys and prompts lie in them, so they are the owner's alone."""
        for folder in (self.root, self.logs, self.redis):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)


def read_ready_file(path: Path) -> dict[str, Any] | None:
    """What the ready file says, or None where there is none (no stack runs)."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and "url" in content else None


def write_private_json(path: Path, content: object) -> None:
    """Write JSON whole or not at all, readable by its owner only: there are keys in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(content, file, ensure_ascii=False, indent=2)
        file.write("\n")
    draft.replace(path)
