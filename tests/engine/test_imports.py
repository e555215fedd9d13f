"""Types, factory and echo engine load no model library; a lazy import would escape the linter's contracts."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
from worker.engine import config, echo, factory, protocol, runner, scheduler, sequence, slot_engine, validation
engine = factory.build_engine(config.EngineConfig(engine="echo"))
engine.start()
request = protocol.EngineRequest(engine.encode([protocol.Piece("hello")]), protocol.SamplingParams(max_tokens=5))
assert engine.submit(request).result(10).completions[0].text == "hello"
engine.shutdown()
heavy = {"torch", "transformers", "tokenizers", "numpy", "redis", "celery", "flask"} & set(sys.modules)
sys.exit(f"loaded: {heavy}" if heavy else 0)
"""


def test_echo_needs_no_model_library() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
