"""Kernels of ours in C++: built by the system's compiler when first needed, kept, and done without where there is none.

No torch headers and no Python's: the functions take pointers and are called through ctypes, so a build takes a second and
depends on the processor only. Images have no compiler; theirs are built with ``python -m worker.engine.native FOLDER`` and found
through the setting ``ENGINE_NATIVE_KERNELS_DIR``.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import MappingProxyType

logger = logging.getLogger(__name__)

_SOURCE = Path(__file__).with_name("kernels.cpp")
# What torch calls the processor's best instructions, and what compilers call a processor that has them.
_MARCH = MappingProxyType({"AVX512": "x86-64-v4", "AVX2": "x86-64-v3"})
_FLAGS = (
    "-O3", "-std=c++17", "-fPIC", "-shared", "-fopenmp",
    # What vectorizing a sum needs, one by one: with -ffast-math the library would set the processor to flush the smallest numbers
    # of the whole process to zero, and NaN might not come out as NaN, by which a spoilt row is known.
    "-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math", "-fno-math-errno", "-freciprocal-math",
)  # fmt: skip
_COMPILE_S = 120


def load(capability: str, prebuilt: str | None = None) -> ctypes.CDLL | None:
    """The library for this processor, built first where it is not there yet; None where that does not work.

    capability: what torch says of the processor's instructions (``torch.backends.cpu.get_cpu_capability()``).
    prebuilt: a folder to look in first.
    """
    name = library_name(capability)
    for folder in filter(None, (prebuilt, _cache_folder())):
        if (Path(folder) / name).is_file():
            return _opened(Path(folder) / name)
    try:
        return _opened(build(Path(_cache_folder() or tempfile.mkdtemp(prefix="smarttextgen-")), capability))
    except (OSError, subprocess.SubprocessError) as error:
        logger.info("No kernels of our own (%s); torch's are used.", error)
        return None


def library_name(capability: str) -> str:
    """A file name that changes with the source, the flags and the processor."""
    text = "\n".join((_SOURCE.read_text(), *_flags(capability)))
    return f"smarttextgen-{hashlib.sha256(text.encode()).hexdigest()[:16]}.so"


def build(folder: Path, capability: str) -> Path:
    """Compile into ``folder``. Raises: OSError (no compiler, no right to write), subprocess.SubprocessError."""
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        raise FileNotFoundError("there is no C++ compiler")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    target = folder / library_name(capability)
    # Under another name first: several workers may build at once, and one of them may be killed.
    handle, unfinished = tempfile.mkstemp(dir=folder, suffix=".so")
    os.close(handle)
    command = [compiler, *_flags(capability), str(_SOURCE), "-o", unfinished]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=_COMPILE_S)  # noqa: S603  # our own words
        Path(unfinished).replace(target)
    finally:
        Path(unfinished).unlink(missing_ok=True)
    logger.info("Built %s with %s.", target, compiler)
    return target


def _flags(capability: str) -> tuple[str, ...]:
    march = _MARCH.get(capability) if platform.machine() in ("x86_64", "AMD64") else None
    return (*_FLAGS, *([f"-march={march}"] if march else []))


def _cache_folder() -> str | None:
    """Where built libraries are kept: one that nobody else may write to, since what is in it is run."""
    try:
        base = Path.home() / ".cache" / "smarttextgen" / "native"
        base.mkdir(parents=True, exist_ok=True, mode=0o700)
        about = base.stat()
    except (OSError, RuntimeError):  # RuntimeError: nobody knows where home is
        return None
    private = about.st_uid == os.getuid() and not about.st_mode & 0o022
    return str(base) if private and os.access(base, os.W_OK) else None


def _opened(path: Path) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        logger.warning("%s cannot be loaded (%s); torch's kernels are used.", path, error)
        return None
