"""Log-probabilities of the model's own distribution, from its logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from worker.engine import drawing
from worker.engine.places import Chances


def chances(logits: torch.Tensor, tokens: Sequence[int], counts: Sequence[int]) -> list[Chances]:
    """What the model thought of each of ``tokens``, and of the ``counts`` most probable ones at its place.

    logits: float32 ``[tokens, vocab]``. Waits for the device, once.
    """
    if not tokens:
        return []
    most = min(max(counts), logits.shape[-1])
    chosen = torch.tensor(tokens, dtype=torch.long).to(logits.device, non_blocking=True).unsqueeze(1)
    values, ids = drawing.best(logits, most) if most else (logits[:, :0], chosen[:, :0])
    told = torch.cat((logits.gather(1, chosen), values), dim=1) - logits.logsumexp(-1, keepdim=True)
    numbers = torch.cat((ids.double(), told.double()), dim=1).tolist()  # ids are exact in a double
    return [
        Chances(token, row[most], tuple((int(row[i]), row[most + 1 + i]) for i in range(min(count, most))))
        for token, count, row in zip(tokens, counts, numbers, strict=True)
    ]
