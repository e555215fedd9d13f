"""What one row needs to be sampled. It stays with the row through every step, slot and preemption."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence

import torch

from worker.engine.protocol import SamplingParams
from worker.engine.structured import Matcher, StructureCompiler

_SEEDS = 2**63
_BLOCK = 64  # uniform numbers drawn at once; torch's generator gives the same ones one by one


class RowSampling:
    """Its parameters, its numbers, and the tokens it has seen.

    ``taken``: tokens that were sampled; the next one uses number ``taken`` of the row's generator, whatever happens between.
    ``matcher``: where it is in its structure. ``wide``: its nucleus was once larger than the usual candidates. ``unwanted``: ids that may not be chosen before
    ``min_tokens``. ``seen``, ``counts``: with penalties, the tokens so far (int64 ``[length]`` and room for more) and how often the
    output has each of them.
    """

    def __init__(
        self,
        params: SamplingParams,
        index: int,
        prompt: Sequence[int],
        end_tokens: Collection[int] = (),
        matcher: Matcher | None = None,
    ) -> None:
        self.params = params
        self.matcher = matcher
        self.taken = 0
        self.wide = False
        self.unwanted = sorted({*end_tokens, *params.stop_token_ids})
        # On the CPU always: the same seed gives the same numbers on every device.
        self._generator = torch.Generator()
        seed = secrets.randbits(63) if params.seed is None else (params.seed + index) % _SEEDS
        self._generator.manual_seed(seed)
        self._numbers = torch.empty(0)
        self.seen, self.counts = self._first_seen(prompt) if self.penalized else (torch.empty(0), torch.empty(0))

    @property
    def penalized(self) -> bool:
        p = self.params
        return p.repetition_penalty != 1.0 or p.presence_penalty != 0.0 or p.frequency_penalty != 0.0

    @property
    def seen_length(self) -> int:
        return len(self.seen) - self.params.max_tokens + self.taken

    def uniforms(self, count: int) -> torch.Tensor:
        """The next ``count`` numbers, float32 in [0, 1). Asking uses none up."""
        missing = self.taken + count - len(self._numbers)
        if missing > 0:
            more = torch.rand(-(-missing // _BLOCK) * _BLOCK, generator=self._generator)
            self._numbers = torch.cat((self._numbers, more))
        return self._numbers[self.taken : self.taken + count]

    def _first_seen(self, prompt: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        # Without a repetition penalty only the output counts; the first token stays, since what pads the list repeats it.
        listed = prompt if self.params.repetition_penalty != 1.0 else prompt[:1]
        seen = torch.zeros(len(listed) + self.params.max_tokens, dtype=torch.long)
        seen[: len(listed)] = torch.tensor(listed, dtype=torch.long)
        return seen, torch.zeros(len(seen))


class RowSamplings:
    """Makes them, for one model. end_tokens: ids that end an answer. structures: needed only where a request has one."""

    def __init__(self, end_tokens: Collection[int] = (), structures: StructureCompiler | None = None) -> None:
        self._end_tokens = end_tokens
        self._structures = structures

    def begin(self, params: SamplingParams, index: int, prompt: Sequence[int]) -> RowSampling:
        """For completion ``index`` of a request that begins now."""
        matcher = None
        if params.structure is not None:
            assert self._structures is not None
            matcher = self._structures.matcher(params.structure)
        return RowSampling(params, index, prompt, self._end_tokens, matcher)
