"""``model.generate`` for one request after the other, as a typical demo serves them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from benchmarks.engines.contender import Outputs
from benchmarks.engines.plain import Plain
from benchmarks.workload import Job


class Naive(Plain):
    def generate(self, jobs: Sequence[Job]) -> Outputs:
        return [self._answer(job) for job in jobs]

    def _answer(self, job: Job) -> list[int]:
        ids = torch.tensor([job.prompt])
        out = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=job.output_tokens, do_sample=False
        )
        tokens: list[int] = out[0, ids.shape[1] :].tolist()
        return tokens
