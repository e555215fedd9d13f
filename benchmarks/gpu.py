"""The engine on a GPU, in one call: `python -m benchmarks.gpu`, or `python benchmarks/gpu.py`.

Needs torch >= 2.11 and transformers >= 5.17, and nothing of the platform. Makes a model of random weights on the device, prints tables,
and writes JSON into benchmarks/results, and into $OUT where that is set. A part that fails says so, the others go on, and the exit
code is 1. `--shape tiny --device cpu` runs the same on any machine, to test the script; its figures mean nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
# Started as a file: its folder is on the path then, where platform.py hides Python's own module of that name, and its parent is not.
sys.path = [str(_ROOT), *(entry for entry in sys.path if Path(entry or ".").resolve() != _ROOT / "benchmarks")]

import argparse  # noqa: E402  # after the path
import json  # noqa: E402  # the same
import logging  # noqa: E402  # the same
import os  # noqa: E402  # the same
import platform  # noqa: E402  # the same
import time  # noqa: E402  # the same
import traceback  # noqa: E402  # the same
from collections.abc import Callable  # noqa: E402  # the same
from datetime import UTC, datetime  # noqa: E402  # the same
from typing import Any  # noqa: E402  # the same

import torch  # noqa: E402  # the same
import transformers  # noqa: E402  # the same

from benchmarks import gpu_sections  # noqa: E402  # the same
from benchmarks.gpu_bench import SHAPES, Bench, random_weights  # noqa: E402  # the same

_RESULTS = _ROOT / "benchmarks" / "results"


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)7.0f ms %(message)s", stream=sys.stderr)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    shape = SHAPES[options.shape or ("8b" if device.type == "cuda" else "tiny")]
    if device.type != "cuda":
        print("No GPU: what follows tests this script, and says nothing of any GPU.\n")
        torch.set_num_threads(1)
    compiler = options.compiler or ("inductor" if device.type == "cuda" else "none")
    bench = Bench(
        shape=shape,
        device=device,
        requests=options.requests or shape.requests,
        deadline=time.monotonic() + 60 * options.minutes,
        compiler=None if compiler == "none" else compiler,
        weights=random_weights(shape, device),
    )
    bench.results |= _setting(bench)
    print(json.dumps(bench.results["setting"], indent=1))
    failed = [name for name, section in gpu_sections.SECTIONS if not _run(bench, name, section)]
    bench.results["failed"] = failed
    _write(bench)
    if failed:
        print(f"\nFailed or left out: {', '.join(failed)}")
    return 1 if failed else 0


def _options(arguments: list[str] | None) -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, help="8b on a GPU, else tiny")
    parser.add_argument("--device", help="cuda, cuda:N or cpu; a GPU where there is one")
    parser.add_argument("--requests", type=int, help="of the workload W; 256")
    parser.add_argument("--minutes", type=float, default=8.0, help="no part is begun after so many; 8")
    parser.add_argument("--compiler", help="backend of torch.compile, or none; inductor on a GPU, else none")
    return parser.parse_args(arguments)


def _run(bench: Bench, name: str, section: Callable[[Bench], None]) -> bool:
    """True if the section ran to its end."""
    print(f"\n## {name}\n", flush=True)
    if bench.left_s <= 0:
        print("Left out: the time is over.")
        return False
    began = time.monotonic()
    try:
        section(bench)
    except Exception as error:  # noqa: BLE001  # whatever it is, the other parts are worth having
        traceback.print_exc()
        print(f"FAILED: {type(error).__name__}: {error}", flush=True)
        bench.results.setdefault("errors", {})[name] = f"{type(error).__name__}: {error}"
        return False
    finally:
        _note_memory(bench, name)
        _write(bench)
        print(f"\n({time.monotonic() - began:.0f} s)", flush=True)
    return True


def _note_memory(bench: Bench, name: str) -> None:
    if bench.on_gpu:
        peaks = bench.results.setdefault("peak_gib", {})
        peaks[name] = torch.cuda.max_memory_allocated(bench.device) / 1024**3
        print(f"\npeak memory {peaks[name]:.1f} GiB")
        torch.cuda.reset_peak_memory_stats(bench.device)


def _setting(bench: Bench) -> dict[str, Any]:
    setting: dict[str, Any] = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": str(bench.device),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "shape": bench.shape.config,
        "dtype": str(bench.weights.dtype),
        "weights_gb": bench.step_bytes / 1e9,
        "requests": bench.requests,
        "compiler": bench.compiler,
    }
    if bench.on_gpu:
        about = torch.cuda.get_device_properties(bench.device)
        setting |= {
            "gpu": about.name,
            "processors": about.multi_processor_count,
            "gpu_gib": about.total_memory / 1024**3,
        }
    return {"setting": setting, "sound": bench.on_gpu}


def _write(bench: Bench) -> None:
    """After every part, so that a run that is cut short leaves what it had. Nothing is kept of a run without a GPU but for $OUT."""
    folders = [Path(os.environ["OUT"])] if os.environ.get("OUT") else []
    if bench.on_gpu:
        folders.append(_RESULTS)
    stamp = bench.results["setting"]["when"].replace("-", "").replace(":", "").replace("+0000", "Z")
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"gpu-{stamp}.json").write_text(json.dumps(bench.results, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
