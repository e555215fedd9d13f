"""Choosing tokens, for all rows at once.

Order and meaning of the steps are those of transformers' logits processors: repetition penalty, temperature, top-k,
top-p. The draw itself is by inversion, one uniform number per row from that row's own generator: so a seeded row gets
the same numbers whatever runs beside it.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import torch

from worker.engine.protocol import SamplingParams

_CANDIDATES = 256  # enough for nearly every nucleus; rows for which it is not are sorted whole
_SEEDS = 2**63
_COLDEST = 1e-6  # below it float32 would divide by zero, and the answer has long been the greedy one


class RowSampling:
    """What one row needs to be sampled: its parameters, its generator, and the tokens it has seen."""

    def __init__(self, params: SamplingParams, index: int, prompt: Sequence[int]) -> None:
        self.params = params
        self._generator = torch.Generator()  # on the CPU always: the same seed gives the same numbers on every device
        seed = secrets.randbits(63) if params.seed is None else (params.seed + index) % _SEEDS
        self._generator.manual_seed(seed)
        self._seen = torch.empty(0, dtype=torch.long)
        self._count = 0
        if params.repetition_penalty != 1.0:
            self._seen = torch.empty(len(prompt) + params.max_tokens, dtype=torch.long)
            self._seen[: len(prompt)] = torch.tensor(prompt, dtype=torch.long)
            self._count = len(prompt)

    @property
    def seen(self) -> torch.Tensor:
        """int64 ``[tokens so far]``; kept only where there is a repetition penalty."""
        return self._seen[: self._count]

    def draw(self) -> float:
        """Uniform in [0, 1)."""
        return float(torch.rand((), generator=self._generator))

    def take(self, token: int) -> None:
        if self._count < len(self._seen):
            self._seen[self._count] = token
            self._count += 1


def sample(logits: torch.Tensor, rows: Sequence[RowSampling]) -> list[int]:
    """One token per row.

    logits: float32 ``[rows, vocab]``, each with a finite maximum; not changed.
    """
    logits = penalized(logits, rows)
    chosen: list[int] = logits.argmax(dim=-1).tolist()
    drawn = [at for at, row in enumerate(rows) if row.params.temperature > 0]
    if drawn:
        tokens = _draw(logits, [rows[at] for at in drawn], drawn)
        for at, token in zip(drawn, tokens, strict=True):
            chosen[at] = token
    for row, token in zip(rows, chosen, strict=True):
        row.take(token)
    return chosen


def penalized(logits: torch.Tensor, rows: Sequence[RowSampling]) -> torch.Tensor:
    """Repetition penalty: logits of seen tokens are divided by it where positive, else multiplied."""
    at = [index for index, row in enumerate(rows) if row.params.repetition_penalty != 1.0]
    if not at:
        return logits
    seen = torch.nn.utils.rnn.pad_sequence([rows[i].seen for i in at], batch_first=True, padding_value=-1)
    seen = torch.where(seen < 0, seen[:, :1], seen).to(logits.device)
    penalty = torch.tensor([[rows[i].params.repetition_penalty] for i in at], device=logits.device)
    index = torch.tensor(at, device=logits.device)
    some = logits[index]
    scores = some.gather(1, seen)
    scores = torch.where(scores < 0, scores * penalty, scores / penalty)
    limit = torch.finfo(logits.dtype).max  # a penalty near 0 would make infinities, and their difference is no number
    return logits.index_copy(0, index, some.scatter(1, seen, scores.clamp(-limit, limit)))


def _draw(logits: torch.Tensor, rows: Sequence[RowSampling], at: Sequence[int]) -> list[int]:
    """Tokens of the rows that sample; ``at`` are their places in ``logits``."""
    device = logits.device
    some = logits if len(at) == len(logits) else logits[torch.tensor(at, device=device)]
    temperatures = torch.tensor([[max(row.params.temperature, _COLDEST)] for row in rows], device=device)
    # A tiny temperature must not turn a large logit into infinity: only differences to the largest count.
    some = ((some - some.amax(dim=-1, keepdim=True)) / temperatures).float()
    uniforms = torch.tensor([[row.draw()] for row in rows], device=device)
    tokens = torch.empty(len(rows), dtype=torch.long, device=device)
    filtered = [i for i, row in enumerate(rows) if row.params.top_k > 0 or row.params.top_p < 1.0]
    whole = sorted(set(range(len(rows))) - set(filtered))
    if whole:
        index = torch.tensor(whole, device=device)
        tokens[index] = invert(torch.softmax(some[index], dim=-1), uniforms[index])
    if filtered:
        index = torch.tensor(filtered, device=device)
        ids, probabilities = candidates(some[index], [rows[i].params for i in filtered])
        tokens[index] = ids.gather(1, invert(probabilities, uniforms[index]).unsqueeze(1)).squeeze(1)
    result: list[int] = tokens.tolist()
    return result


def candidates(scores: torch.Tensor, params: Sequence[SamplingParams]) -> tuple[torch.Tensor, torch.Tensor]:
    """Top-k then top-p (Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020).

    scores: float32 ``[rows, vocab]``. Returns ids, int64 ``[rows, c]``, the most probable first, and their
    probabilities, float32 ``[rows, c]``, 0 for those filtered out.
    """
    vocab = scores.shape[-1]
    widest = max(min(p.top_k or _CANDIDATES, vocab) for p in params)
    ids, probabilities, short = _nucleus(scores, params, min(vocab, widest))
    if short:
        ids, probabilities, _ = _nucleus(scores, params, vocab)
    return ids, probabilities


def _nucleus(
    scores: torch.Tensor, params: Sequence[SamplingParams], width: int
) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """As ``candidates``, among the ``width`` best; True when some row's nucleus may be wider than that."""
    device, vocab = scores.device, scores.shape[-1]
    best, ids = scores.topk(width, dim=-1)
    top_k = torch.tensor([[min(p.top_k or vocab, vocab)] for p in params], device=device)
    top_p = torch.tensor([[p.top_p] for p in params], device=device)
    best = best.masked_fill(torch.arange(width, device=device) >= top_k, -torch.inf)
    total = torch.where(top_k < vocab, best.logsumexp(-1, keepdim=True), scores.logsumexp(-1, keepdim=True))
    probabilities = (best - total).exp()
    reached = probabilities.cumsum(-1)
    short = width < vocab and bool(((top_k > width) & (reached[:, -1:] < top_p)).any())
    # A token stays while those before it have not reached top_p; the first always does.
    probabilities = probabilities.masked_fill((reached - probabilities >= top_p) & (top_p < 1.0), 0.0)
    return ids, probabilities, short


def invert(probabilities: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """The index at which the running sum passes ``uniforms`` of the whole: int64 ``[rows]``.

    probabilities: ``[rows, n]``, need not add up to 1. uniforms: ``[rows, 1]`` in [0, 1).
    """
    sums = probabilities.cumsum(-1)
    at = torch.searchsorted(sums, uniforms * sums[:, -1:], right=True).squeeze(1)
    # Rounding may push the product to the very end; the last index with any probability is meant then.
    last = probabilities.shape[-1] - 1 - (probabilities > 0).flip(-1).int().argmax(-1)
    return torch.minimum(at, last)
