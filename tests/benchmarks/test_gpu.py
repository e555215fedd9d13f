"""benchmarks/gpu.py from its first line to its last, on a machine without a GPU and without what the platform brings along."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import gpu, gpu_sections
from benchmarks.gpu_bench import SHAPES, Bench
from benchmarks.gpu_sections import SECTIONS, least_seconds
from benchmarks.workload import Job

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu.py"
# What a machine with torch and transformers alone does not have.
ABSENT = (
    "celery", "kombu", "redis", "pydantic", "pydantic_settings", "structlog", "tenacity", "prometheus_client", "flask", "httpx_sse",
    "peft", "xgrammar", "llguidance", "outlines",
)  # fmt: skip
# As `python benchmarks/gpu.py` does it, with those away.
BLOCKED = f"""
import runpy, sys
sys.modules |= dict.fromkeys({ABSENT!r})
sys.argv[0] = {str(SCRIPT)!r}
sys.path[0] = {str(SCRIPT.parent)!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    out = tmp_path_factory.mktemp("out")
    # Somewhere else, with nothing of ours on its path.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OUT": str(out)}
    command = [sys.executable, "-c", BLOCKED, "--device", "cpu", "--shape", "tiny"]
    return subprocess.run(command, env=environment, cwd="/", check=False, capture_output=True, text=True), out


def test_runs_to_its_end_with_nothing_of_the_platform(
    run: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    process, out = run
    assert process.returncode == 0, process.stdout + process.stderr
    assert "No GPU" in process.stdout
    for name, _ in SECTIONS:
        assert f"## {name}" in process.stdout
    (written,) = out.glob("gpu-*.json")
    results: dict[str, Any] = json.loads(written.read_text())
    assert results["failed"] == []
    assert not results["sound"]
    engine = results["engines"]["graphs"]
    assert engine["memory"] == "pages"
    assert engine["agreement"]["same"] == engine["agreement"]["requests"] == 4
    assert engine["w"]["output_tokens"] > 0
    assert set(results["long_prompt"]) == {"16 tokens a step", "at once"}
    assert results["continuous_batching"]["ours_to_theirs"] > 0


def test_a_part_that_fails_says_so_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(bench: Bench) -> None:
        raise RuntimeError("no luck")

    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setattr(gpu_sections, "SECTIONS", (("broken", broken), ("ceilings", gpu_sections.ceilings)))
    assert gpu.main(["--device", "cpu", "--shape", "tiny"]) == 1
    assert "no luck" in capsys.readouterr().out
    (written,) = tmp_path.glob("gpu-*.json")
    results = json.loads(written.read_text())
    assert (results["failed"], results["ceilings"]["copy_bytes_per_s"] > 0) == (["broken"], True)


def test_a_part_whose_time_is_over_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--device", "cpu", "--shape", "tiny", "--minutes", "0"]) == 1
    assert capsys.readouterr().out.count("Left out") == len(SECTIONS)


def test_the_roofline_by_hand() -> None:
    ceilings = {"copy_bytes_per_s": 100.0, "product_flop_per_s": 50.0}
    bench: Any = SimpleNamespace(
        step_bytes=1000, token_bytes=10, results={"ceilings": ceilings}, weights=SimpleNamespace(dtype=torch.float16)
    )
    jobs = [Job((1,) * 4, 3), Job((1,) * 2, 1)]
    # Six prompt tokens: 2 x 500 x 6 operations in 120 s, longer than 10 s of reading. Then two steps of one row: 20 s each by
    # operations, longer than (1000 + 10 x 5) / 100 s.
    assert least_seconds(bench, jobs) == 120 + 20 + 20
    ceilings["product_flop_per_s"] = 1e9
    assert least_seconds(bench, jobs) == pytest.approx(10 + 10.5 + 10.6)


def test_the_large_shape_is_llama_3s() -> None:
    shape = SHAPES["8b"].config
    layer = (
        2 * shape["hidden_size"] ** 2
        + 2 * shape["hidden_size"] * 1024
        + 3 * shape["hidden_size"] * shape["intermediate_size"]
    )
    assert round((shape["num_hidden_layers"] * layer + 2 * shape["vocab_size"] * shape["hidden_size"]) / 1e9, 2) == 8.03
