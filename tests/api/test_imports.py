"""The API process stays light: the linter cannot see a lazy import, a running process can."""

from __future__ import annotations

import json
import os
import subprocess
import sys

FORBIDDEN = {"torch", "transformers", "vllm", "worker", "tokenizers", "httpx", "smarttextgen", "numpy", "flower"}

PROGRAM = """
import json, sys
import api.app, api.server, api.__main__
alone = set(sys.modules)
import fakeredis  # the store in memory brings modules of its own, which no server loads
brought = set(sys.modules) - alone
from tests.api.house import build
house = build()
assert house.call("POST", "/api/generate", json={"prompt": "a"}).status_code == 202
assert house.call("GET", "/openapi.json").status_code == 200
assert house.call("GET", "/apidocs").status_code == 200
print(json.dumps(sorted({name.split(".")[0] for name in set(sys.modules) - brought})))
"""


def test_no_model_library_is_loaded(repository) -> None:
    environment = os.environ | {"PYTHONPATH": str(repository)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, cwd=repository, check=False
    )
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert loaded & FORBIDDEN == set()
    assert "flask" in loaded, "the test looks at something"
