"""The forward pass: from a plan to a token for each of its rows."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from shared.errors import GenerationError
from worker.engine.cache import PackedBatch, PackedChunk, SlotCache
from worker.engine.logprobs import chances
from worker.engine.lora import ActiveAdapters
from worker.engine.native.decode import DecodeAttention
from worker.engine.packing import padded
from worker.engine.prefix_cache import PrefixCache
from worker.engine.protocol import Reused
from worker.engine.row_sampling import RowSampling, RowSamplings
from worker.engine.sampler import Sampler
from worker.engine.scheduler import Chunk, Copy, StepPlan
from worker.engine.sequence import Row

logger = logging.getLogger(__name__)


class ModelRunner:
    """A ``Runner`` over a transformers model whose attention is ``attention.slot_attention``. kernel: as in ``PackedBatch``.
    prefix: what was computed before; None where nothing is kept of it."""

    def __init__(
        self,
        model: torch.nn.Module,
        cache: SlotCache,
        device: torch.device,
        samplings: RowSamplings | None = None,
        kernel: DecodeAttention | None = None,
        prefix: PrefixCache | None = None,
        adapters: ActiveAdapters | None = None,
    ) -> None:
        self.model = model
        self.cache = cache
        self.device = device
        self.kernel = kernel
        self.pads = device.type == "cpu"
        self.sampler = Sampler(device)
        self._samplings = samplings or RowSamplings()
        self._prefix = prefix
        self._adapters = adapters or ActiveAdapters()
        self._sampling: dict[Row, RowSampling] = {}
        self._slots_used = 0

    def prepare(self, row: Row) -> None:
        self._sampling[row] = self._samplings.begin(row.group.sampling, row.index, row.prompt)

    def release(self, row: Row) -> None:
        self._sampling.pop(row, None)
        if self._prefix is not None:
            self._prefix.forget(row)

    def reuse(self, row: Row) -> int:
        # Log-probabilities of the prompt come from computing all of it.
        if self._prefix is None or row.group.sampling.prompt_logprobs is not None:
            return 0
        try:
            return self._prefix.find(row)
        except Exception:
            logger.exception(
                "What was computed before could not be looked up."
            )  # asked between steps: it must not end the loop
            self._prefix.clear()
            return 0

    def vacate(self, row: Row, *, sound: bool) -> None:
        if sound and self._prefix is not None:
            self._prefix.keep(row, row.computed)

    def reused(self) -> Reused:
        if self._prefix is None:
            return Reused()
        return Reused(self._prefix.queries, self._prefix.hits, self._prefix.held_bytes)

    def step(self, plan: StepPlan) -> list[int | Exception]:
        for move in plan.moves:
            self.cache.copy(move)
        self.cache.settle(_lengths(plan))
        if self._prefix is not None:
            for row in plan.reused:
                self._prefix.fill(row)
        self._slots_used = max((row.slot + 1 for row in [*plan.rows, *plan.sampled]), default=0)
        logits = self._forward_plan(plan)
        self._fork(plan)
        rows = plan.sampled
        if len(logits) != len(rows):
            logits = logits[_logits_of_rows(plan)]
        tokens = self._choose(logits, rows)
        self._keep_prompts(plan, tokens)
        return tokens

    def recover(self) -> None:
        """Clear what the failed step may have spoilt, and run one token. Raises whatever is still wrong."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self._prefix is not None:
            self._prefix.clear()
        for slot in range(self._slots_used):
            self.cache.clear(slot)
        self._adapters.clear()
        logits = self.forward([0], [0], self.packed_batch([], [PackedChunk(0, 0, 1, 0, 1)]), [0])
        if not bool(torch.isfinite(logits.amax())):
            raise GenerationError("The model computes no numbers any more.")

    def forward(
        self, tokens: Sequence[int], positions: Sequence[int], batch: PackedBatch, wanted: Sequence[int]
    ) -> torch.Tensor:
        """One forward over packed tokens.

        tokens, positions: of each packed token. wanted: the packed tokens after which logits are needed. Returns
        float32 ``[wanted, vocab]``.
        """
        self.cache.batch = batch
        # What is added belongs to no row: nothing of it is kept, and nobody attends to it.
        more, keep = self._padding(len(tokens)), [*wanted, *[0] * self._padding(len(wanted))]
        packed = torch.tensor([[*tokens, *[0] * more], [*positions, *[0] * more]], dtype=torch.long).to(self.device)
        output = self.model(
            input_ids=packed[:1],
            position_ids=packed[1:],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=torch.tensor(keep, dtype=torch.long).to(self.device),
            slot_batch=batch,
        )
        logits: torch.Tensor = output.logits[0, : len(wanted)].float()
        return logits

    def _padding(self, rows: int) -> int:
        return padded(rows) - rows if self.pads else 0

    def packed_batch(self, lengths: Sequence[int], chunks: Sequence[PackedChunk]) -> PackedBatch:
        """lengths: tokens already in the cache of each decoding row, in slot order."""
        return PackedBatch(
            decoding=len(lengths),
            slots=torch.arange(len(lengths), device=self.device),
            positions=torch.tensor(lengths, dtype=torch.long).to(self.device),
            longest=max(lengths, default=0) + 1,
            chunks=tuple(chunks),
            kernel=self.kernel,
        )

    def _forward_plan(self, plan: StepPlan) -> torch.Tensor:
        lengths = [row.computed for row in plan.decoding]
        tokens, positions = [row.last_token for row in plan.decoding], list(lengths)
        wanted, chunks = list(range(len(lengths))), []
        for chunk in plan.chunks:
            first = len(tokens)
            tokens += chunk.tokens
            positions += range(chunk.start, chunk.end)
            chunks.append(PackedChunk(chunk.row.slot, first, len(tokens), chunk.start, chunk.end))
            if chunk.completes:
                wanted.append(len(tokens) - 1)
        asked = [len(lengths) + at for at in told(plan.chunks)]
        if any(row.group.request.adapter for row in plan.rows):
            self._adapters.set(_adapters_of_tokens(plan), self.device)
        else:
            self._adapters.clear()
        # With nothing to sample the model still wants one position to keep.
        logits = self.forward(tokens, positions, self.packed_batch(lengths, chunks), [*wanted, *asked] or [0])
        if asked:
            tell_prompts(plan, logits[len(wanted) :])
        return logits[: len(wanted)]

    def _fork(self, plan: StepPlan) -> None:
        """Give each completed prompt's keys and values to the other completions of the same request."""
        for chunk in plan.completed:
            for row in chunk.siblings:
                self.cache.copy(Copy(chunk.row.slot, row.slot, chunk.end))

    def _keep_prompts(self, plan: StepPlan, tokens: Sequence[int | Exception]) -> None:
        """Of the prompts that were completed in this step; an answer follows when its row leaves its slot."""
        if self._prefix is None:
            return
        failed = {row for row, token in zip(plan.sampled, tokens, strict=True) if isinstance(token, Exception)}
        for chunk in plan.completed:
            if failed.isdisjoint(chunk.rows):
                self._prefix.keep(chunk.row, chunk.end)

    def _choose(self, logits: torch.Tensor, rows: Sequence[Row]) -> list[int | Exception]:
        if not rows:
            return []
        tokens: list[int | Exception] = []
        for row, token in zip(rows, self._sample(logits, rows), strict=True):
            if token is None:
                self.cache.clear(row.slot)
            tokens.append(GenerationError("The model computed no numbers for this row.") if token is None else token)
        self._tell(logits, rows, tokens)
        return tokens

    def _tell(self, logits: torch.Tensor, rows: Sequence[Row], tokens: Sequence[int | Exception]) -> None:
        """Leave with each row that asked for it what the model thought of its token."""
        asked = [
            (at, row, token, row.group.sampling.logprobs)
            for at, (row, token) in enumerate(zip(rows, tokens, strict=True))
            if row.group.sampling.logprobs is not None and not isinstance(token, Exception)
        ]
        if asked:
            places, askers, chosen, counts = zip(*asked, strict=True)
            told = chances(logits[list(places)], chosen, counts)
            for row, one in zip(askers, told, strict=True):
                row.chances = one

    def _sample(self, logits: torch.Tensor, rows: Sequence[Row]) -> Sequence[int | Exception | None]:
        """All rows at once; should that fail, one by one, so that only the one at fault fails. None: no numbers."""
        try:
            return self.sampler.sample(logits, [self._sampling[row] for row in rows])
        except Exception:
            logger.exception("Sampling %d rows together failed; trying each alone.", len(rows))
            return [self._sample_alone(logits[at : at + 1], row) for at, row in enumerate(rows)]

    def _sample_alone(self, logits: torch.Tensor, row: Row) -> int | Exception | None:
        try:
            return self.sampler.sample(logits, [self._sampling[row]])[0]
        except Exception as error:  # noqa: BLE001  # handed to the loop, which fails this row with it
            return error


def _lengths(plan: StepPlan) -> list[int]:
    """Tokens in slots 0, 1, 2, … once the step is over."""
    lengths = [row.computed + 1 for row in plan.decoding]
    for chunk in plan.chunks:
        lengths += [chunk.end] * len(chunk.rows)
    return lengths


def _adapters_of_tokens(plan: StepPlan) -> list[str | None]:
    """The adapter of each packed token."""
    names = [row.group.request.adapter for row in plan.decoding]
    for chunk in plan.chunks:
        names += [chunk.row.group.request.adapter] * (chunk.end - chunk.start)
    return names


def _to_tell(chunk: Chunk) -> range:
    """The tokens of a chunk after which the next one of the prompt is to be told: not the last, and none twice."""
    group = chunk.row.group
    if group.sampling.prompt_logprobs is None:
        return range(0)
    return range(max(chunk.start, len(group.prompt_chances)), min(chunk.end, len(chunk.row.prompt) - 1))


def told(chunks: Sequence[Chunk]) -> list[int]:
    """Of the tokens of ``chunks``, one after the other, those after which logits are needed for ``prompt_logprobs``."""
    found: list[int] = []
    first = 0
    for chunk in chunks:
        found += [first + at - chunk.start for at in _to_tell(chunk)]
        first += chunk.end - chunk.start
    return found


def tell_prompts(plan: StepPlan, logits: torch.Tensor) -> None:
    """logits: after each token of ``told``."""
    first = 0
    for chunk in plan.chunks:
        at, group = _to_tell(chunk), chunk.row.group
        some, first = logits[first : first + len(at)], first + len(at)
        count = group.sampling.prompt_logprobs or 0
        group.prompt_chances += chances(some, chunk.row.prompt[at.start + 1 : at.stop + 1], [count] * len(at))


def _logits_of_rows(plan: StepPlan) -> list[int]:
    """For each sampled row, the index of its logits: the completions of one prompt begin from the same ones."""
    indices = list(range(len(plan.decoding)))
    for at, chunk in enumerate(plan.completed, start=len(plan.decoding)):
        indices += [at] * len(chunk.rows)
    return indices
