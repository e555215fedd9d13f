"""Which process loads what, seen in real processes: a lazy import escapes import-linter, but not this."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

MODEL_LIBRARIES = {"torch", "transformers", "vllm"}
WEB = {"flask", "gunicorn"}
ROOMS = {"api", "worker", "shared"}


def loaded_by(statement: str) -> set[str]:
    """Top-level modules in a fresh interpreter after a statement."""
    code = f"import sys, json\n{statement}\nprint(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    environment = os.environ | {"ENGINE": "echo", "REDIS_URL": "redis://127.0.0.1:1/0"}
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    return set(json.loads(answer.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("statement", "never"),
    [
        ("import api.wsgi", MODEL_LIBRARIES | {"worker", "smarttextgen"}),
        ("import shared.store.redis, shared.keys, shared.schemas, shared.queue, shared.modes", MODEL_LIBRARIES | WEB),
        (
            "import worker.app; worker.app.engine_from(worker.app.load_settings()).start()",
            MODEL_LIBRARIES | WEB | {"api"},
        ),
        (
            "from worker.courier.__main__ import build, load_settings; build(load_settings())",
            MODEL_LIBRARIES | WEB | {"api", "smarttextgen", "tokenizers", "numpy"},
        ),
        ("import worker.engine.protocol, worker.engine.factory", MODEL_LIBRARIES | {"redis", "celery"}),
        ("import smarttextgen, smarttextgen.cli", MODEL_LIBRARIES | WEB | ROOMS | {"redis", "celery"}),
    ],
    ids=["api", "shared", "worker_with_echo", "courier", "engine_types", "client"],
)
def test_a_process_loads_only_its_rooms(statement: str, never: set[str]):
    assert not loaded_by(statement) & never


def test_the_look_at_modules_can_fail():
    assert "torch" in loaded_by("import torch")
