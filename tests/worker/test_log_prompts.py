"""Prompts are in the logs where an operator asked for that, and nowhere else."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from shared.store.memory import MemoryStore
from tests.worker.conftest import submit
from worker.runner import Runner

SECRET = "my secret wish"


@pytest.mark.parametrize("asked", [False, True])
def test_prompts_and_answers(store: MemoryStore, runner: Runner, *, asked: bool):
    runner._log_prompts = asked
    ref = submit(store, SECRET)
    with capture_logs() as lines:
        runner.run(ref)
    (line,) = (line for line in lines if line["event"] == "job ended")
    assert (SECRET in str(lines)) is asked
    if asked:
        assert line["prompt"] == SECRET
        assert line["outputs"] == [store.get(ref).output]
