"""A name for all that an answer depends on besides its request, as OpenAI's ``system_fingerprint``."""

from __future__ import annotations

import hashlib
import json
from importlib import metadata


def fingerprint(**parts: str | int | bool | None) -> str:
    """``fp_`` and ten hexadecimal digits over ``parts`` and the version of this project."""
    text = json.dumps(parts | {"smarttextgen": metadata.version("smarttextgen")}, sort_keys=True)
    return f"fp_{hashlib.sha256(text.encode()).hexdigest()[:10]}"
