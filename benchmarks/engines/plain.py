"""transformers' own model, as its users load it: the base of the three engines that come with transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.engines.contender import Outputs, Stream, Task
from benchmarks.workload import Job


def load_plain(folder: Path) -> Any:
    """The model, float32, with its end-of-text token taken away."""
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    model.generation_config.eos_token_id = None
    model.config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


class Plain:
    """What the three have in common."""

    def __init__(self, task: Task) -> None:
        if task.threads:
            torch.set_num_threads(task.threads)
        self.model = load_plain(task.model)

    def generate(self, jobs: Sequence[Job]) -> Outputs:
        raise NotImplementedError

    def serve(self, jobs: Sequence[Job], due: Sequence[float]) -> list[Stream]:
        raise NotImplementedError

    def versions(self) -> dict[str, str]:
        return {"torch": torch.__version__, "transformers": transformers.__version__}

    def close(self) -> None:
        """Nothing to end."""
