"""``python -m tests.chaos.poisoned``: a worker whose process dies of SIGKILL at the first token of a prompt that holds the
marker, as it would of a prompt that breaks a driver."""

from __future__ import annotations

import os
import signal

from worker.engine.echo import EchoRunner
from worker.engine.scheduler import StepPlan

MARKER = "POISON"


def main() -> None:
    step = EchoRunner.step
    needle = MARKER.encode()

    def deadly(self: EchoRunner, plan: StepPlan) -> list[int | Exception]:
        if any(needle in bytes(token for token in row.prompt if token < 256) for row in plan.sampled):
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, plan)

    EchoRunner.step = deadly
    from worker.__main__ import main as run_worker

    run_worker()


if __name__ == "__main__":
    main()
