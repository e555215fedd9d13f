"""``model.generate`` on all requests as one batch, padded on the left to the longest prompt, until the longest answer is done.

Only the tokens that were asked for count: what a row computes after its own end is the price of a static batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from benchmarks.engines.contender import Outputs
from benchmarks.engines.plain import Plain
from benchmarks.workload import Job


class Static(Plain):
    def generate(self, jobs: Sequence[Job]) -> Outputs:
        longest = max(len(job.prompt) for job in jobs)
        ids = torch.tensor([[0] * (longest - len(job.prompt)) + list(job.prompt) for job in jobs])
        mask = torch.tensor([[0] * (longest - len(job.prompt)) + [1] * len(job.prompt) for job in jobs])
        most = max(job.output_tokens for job in jobs)
        out = self.model.generate(ids, attention_mask=mask, max_new_tokens=most, do_sample=False)
        return [row[longest : longest + job.output_tokens].tolist() for row, job in zip(out, jobs, strict=True)]
