"""Which weights answered: a name that changes when a model's folder is trained anew under the same name."""

from __future__ import annotations

import hashlib
from pathlib import Path

from worker.engine.config import EngineConfig

_WHOLE = 1024**2  # bytes; a file up to this size is read whole
_READ = (".safetensors", ".json", ".txt", ".model", ".jinja")  # weights, configs, tokenizers, templates
_SAMPLES, _SAMPLE = 64, 4096  # of a larger one so many pieces, evenly spread, of so many bytes


def contents(config: EngineConfig, revision: str) -> str:
    """A digest of the model and its adapters. Folders are told apart by what is in them; a model of the hub by its revision.

    A training changes every number of a weight, so a file of gigabytes is not read to its end for this. Raises: OSError.
    """
    found = hashlib.sha256(f"{config.model_id} {revision}".encode())
    for name, folder in (("", config.model_id), *config.adapters):
        path = Path(folder).expanduser()
        for file in sorted(path.iterdir()) if path.is_dir() else ():
            if file.suffix in _READ:
                found.update(f"\n{name} {file.name} {file.stat().st_size} ".encode())
                found.update(_some_of(file))
    return found.hexdigest()


def _some_of(file: Path) -> bytes:
    size = file.stat().st_size
    if size <= _WHOLE:
        return file.read_bytes()
    pieces = []
    with file.open("rb") as stream:
        for number in range(_SAMPLES):
            stream.seek(number * (size - _SAMPLE) // (_SAMPLES - 1))
            pieces.append(stream.read(_SAMPLE))
    return b"".join(pieces)
