"""``python -m worker.engine.native FOLDER``: build the kernels for every kind of processor that an image may meet."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

from worker.engine.native import build

if __name__ == "__main__":
    kinds = ("AVX512", "AVX2", "DEFAULT") if platform.machine() == "x86_64" else ("DEFAULT",)
    for kind in kinds:
        sys.stdout.write(f"{build(Path(sys.argv[1]), kind)}\n")
