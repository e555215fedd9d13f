"""A name for all that an answer depends on besides its request, as OpenAI's ``system_fingerprint``."""

from __future__ import annotations

import hashlib
import json
from importlib import metadata


def fingerprint(**parts: str | int | bool | None) -> str:
    """``fp_`` and ten hexadecimal digits over ``parts`` and the version of this project."""
    text = json.dumps(parts | {"smarttextgen": _version()}, sort_keys=True)
    return f"fp_{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def _version() -> str | None:
    """None where the code is there without its package (an environment with vLLM, for tests)."""
    try:
        return metadata.version("smarttextgen")
    except metadata.PackageNotFoundError:
        return None
