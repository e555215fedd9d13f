"""Steps over pages: decoding alone from static inputs (through CUDA graphs), decoding mixed with prompt chunks as it comes.

What a GPU wants of a step: few launches, and no waiting. A decoding step is one transfer in, one graph, one transfer out, for which
the host waits once. Rows that are plainly greedy are chosen on the way; others are sampled from the logits that are left behind.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import torch

from shared.errors import GenerationError
from worker.engine.cache import SlotCache
from worker.engine.decode_inputs import DecodeInputs, Span
from worker.engine.decode_steps import DecodeSteps
from worker.engine.model_runner import ModelRunner, _logits_of_rows
from worker.engine.paged_attention import Kernel, stepping
from worker.engine.paged_cache import PagedBatch, PagedCache, Part
from worker.engine.pages import SCRATCH, PagePool
from worker.engine.parcel import Parcel, add_part
from worker.engine.prefix_pages import PrefixPages
from worker.engine.protocol import Reused, SamplingParams
from worker.engine.row_sampling import RowSamplings
from worker.engine.scheduler import Chunk, StepPlan
from worker.engine.sequence import Row

logger = logging.getLogger(__name__)

_NO_NUMBER = -1  # in place of a token, where the logits held none
_GREEDY = SamplingParams(temperature=0.0)
_COMPILED_CHUNK = 5


class PagedRunner(ModelRunner):
    """A ``Runner`` over a transformers model whose attention is ``paged_attention``.

    rows: the most that decode together. context: the most tokens of a row. kernel: attends to pages. reuses: full pages of what was
    computed before are held by rows that begin with the same tokens.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        cache: PagedCache,
        device: torch.device,
        kernel: Kernel,
        rows: int,
        context: int,
        samplings: RowSamplings | None = None,
        *,
        reuses: bool = True,
    ) -> None:
        super().__init__(model, cast("SlotCache", cache), device, samplings)
        self.paged = cache
        self._network: Callable[..., Any] = model
        self._attend = kernel
        self._context = context
        self.rows = rows
        self.pool = PagePool(cache.pages, cache.page_size)
        self._known = PrefixPages(self.pool) if reuses else None
        self._pages: dict[Row, list[int]] = {}
        self._plain: set[Row] = set()
        self._inputs = DecodeInputs(rows, self.pool.pages_for(context), cache.page_size, device)
        self._every_row = torch.arange(rows + 1, dtype=torch.int32, device=device)
        # A view that does not start at its storage's beginning, as those of mixed steps do not: for a compiled model that differs.
        self._all_tokens = torch.arange(-2, rows, device=device)[2:]
        self._answers = torch.zeros(rows, dtype=torch.long, pin_memory=device.type == "cuda")
        self.steps = DecodeSteps(self._decode_size, rows)

    def prepare(self, row: Row) -> None:
        super().prepare(row)
        self._pages[row] = []
        if _is_plainly_greedy(row.group.sampling):
            self._plain.add(row)

    def release(self, row: Row) -> None:
        super().release(row)
        self._plain.discard(row)
        self.pool.give_back(self._pages.pop(row, []))
        if self._known is not None:
            self._known.forget(row)

    def reuse(self, row: Row) -> int:
        # Log-probabilities of the prompt come from computing all of it.
        if self._known is None or row.group.sampling.prompt_logprobs is not None:
            return 0
        self._pages[row] = self._known.find(row)
        return len(self._pages[row]) * self.pool.page_size

    def vacate(self, row: Row, *, sound: bool) -> None:
        held = self._pages[row]
        if self._known is not None and sound:
            self._known.keep(row, held, row.computed)
        elif self._known is not None:
            self._known.distrust(held)
        self.pool.give_back(held)

    def reused(self) -> Reused:
        if self._known is None:
            return Reused()
        return Reused(self._known.queries, self._known.hits, len(self._known) * self.paged.page_bytes)

    def step(self, plan: StepPlan) -> list[int | Exception]:
        for row in plan.decoding:
            self.pool.grow(self._pages[row], row.computed + 1)
        for chunk in plan.chunks:
            self.pool.grow(self._pages[chunk.row], chunk.end)
        if plan.chunks:
            logits, picked = self._mixed(plan)
        else:
            logits, picked = self.decode([self._newest(row) for row in plan.decoding])
        for chunk in plan.completed:
            self._share_prompt(chunk)
        answers = self._answer(logits, picked, plan)
        self._keep_pages(plan, answers)
        return answers

    def use(self, network: Callable[..., Any]) -> None:
        """Run this in place of the model: a compiled one, or the model itself again."""
        self._network = network

    def compile(self, compiler: str) -> None:
        """Compile the model twice: for one token, and for any number. Raises whatever goes wrong."""
        self.use(torch.compile(self.model, dynamic=True, backend=compiler))
        held: list[int] = []
        self.pool.grow(held, _COMPILED_CHUNK)
        one = Span([0], 0, [SCRATCH])
        self.decode([one])
        # First a step whose numbers all differ: those that are equal would be taken for always equal.
        self._packed([one] * 2, [Span([0] * _COMPILED_CHUNK, 0, held)], [0, 1, _COMPILED_CHUNK + 1])
        self.decode([one] * min(2, self.rows))
        self.pool.give_back(held)

    def record(self) -> None:
        """Record the decoding steps as CUDA graphs. To be called once everything else works."""
        self._inputs.send([], self.rows)
        self.steps.capture()

    def largest_step(self, tokens: int, rows: int) -> None:
        """Compute so many prompt tokens, and logits for so many rows: nothing takes more memory."""
        held: list[int] = []
        self.pool.grow(held, tokens)
        self._packed([], [Span([0] * tokens, 0, held)], [tokens - 1] * rows)
        self.pool.give_back(held)

    def recover(self) -> None:
        """Compute one token on the scratch page. Raises whatever is still wrong."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self._known is not None:
            self._known.clear()
        logits, _ = self.decode([Span([0], 0, [SCRATCH])])
        if not bool(torch.isfinite(logits[:1].amax())):
            raise GenerationError("The model computes no numbers any more.")

    def probe(self, tokens: Sequence[int], cut: int) -> torch.Tensor:
        """float32 ``[2, vocab]``, after the last two of ``tokens``: computed as two chunks and a decoding step."""
        held: list[int] = []
        last = len(tokens) - 1
        self.pool.grow(held, len(tokens))
        try:
            for start, end in ((0, cut), (cut, last)):
                before_last = self._packed([], [Span(tokens[start:end], start, held)], [end - start - 1])
            after_last, _ = self.decode([Span(tokens[last:], last, held)])
            return torch.cat((before_last, after_last[:1]))
        finally:
            self.pool.give_back(held)

    # ---- decoding alone

    def _newest(self, row: Row) -> Span:
        return Span((row.last_token,), row.computed, self._pages[row])

    def decode(self, rows: Sequence[Span]) -> tuple[torch.Tensor, torch.Tensor]:
        size = self.steps.size_for(len(rows))
        self._inputs.send(rows, size)
        logits, picked = self.steps.run(size)
        return logits[: len(rows)], picked[: len(rows)]

    def _decode_size(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """From the static inputs, of so many rows: float32 ``[size, vocab]``, and the greedy choices, int64 ``[size]``."""
        views = self._inputs.views(size)
        starts = self._every_row[: size + 1]
        part = Part(0, size, starts, views.used, views.table, views.starts_k, 1, self._context)
        logits = self._logits(views.tokens, views.positions, PagedBatch(views.places, (part,)), self._all_tokens[:size])
        return logits, _greedy(logits)

    # ---- decoding and prompt chunks

    def _mixed(self, plan: StepPlan) -> tuple[torch.Tensor, torch.Tensor]:
        decoding = [self._newest(row) for row in plan.decoding]
        chunks = [Span(c.tokens, c.start, self._pages[c.row]) for c in plan.chunks]
        wanted, at = list(range(len(decoding))), len(decoding)
        for chunk in plan.chunks:
            at += chunk.end - chunk.start
            if chunk.completes:
                wanted.append(at - 1)
        logits = self._packed(decoding, chunks, wanted)
        return logits, _greedy(logits)

    def _packed(self, decoding: Sequence[Span], chunks: Sequence[Span], wanted: Sequence[int]) -> torch.Tensor:
        """wanted: the packed tokens after which logits are needed. Returns float32 ``[wanted, vocab]``."""
        spans, size = [*decoding, *chunks], self.pool.page_size
        parcel = Parcel(self.device)
        tokens = parcel.add([token for span in spans for token in span.tokens])
        positions = parcel.add([at for span in spans for at in range(span.start, span.end)])
        places = parcel.add([place for span in spans for place in span.places(size)])
        # The model wants something to keep, and a compiled one takes a single number for a case of its own, as it does one token.
        count = sum(len(span.tokens) for span in spans)
        keep = parcel.add([*wanted, 0, 0] if count > 1 else [0])
        parts = [
            add_part(parcel, part, first, size) for part, first in ((decoding, 0), (chunks, len(decoding))) if part
        ]
        parcel.send()
        batch = PagedBatch(parcel[places], tuple(part(parcel) for part in parts))
        return self._logits(parcel[tokens], parcel[positions], batch, parcel[keep])[: len(wanted)]

    # ---- both

    def _logits(
        self, tokens: torch.Tensor, positions: torch.Tensor, batch: PagedBatch, keep: torch.Tensor
    ) -> torch.Tensor:
        """float32 ``[kept, vocab]``."""
        with stepping(self.paged, batch, self._attend):
            output = self._network(
                input_ids=tokens.unsqueeze(0),
                position_ids=positions.unsqueeze(0),
                past_key_values=self.paged,
                use_cache=True,
                logits_to_keep=keep,
            )
        logits: torch.Tensor = output.logits[0].float()
        return logits

    def _share_prompt(self, chunk: Chunk) -> None:
        """Let the other completions of a request have what was computed of its prompt: full pages are shared, the last is copied."""
        pages = self._pages[chunk.row]
        full = chunk.end // self.pool.page_size
        last = pages[full : self.pool.pages_for(chunk.end)]
        for row in chunk.siblings:
            held = self._pages[row]
            self.pool.share(pages[:full])
            held += pages[:full]
            self.paged.copy(last, self.pool.grow(held, chunk.end))

    def _keep_pages(self, plan: StepPlan, answers: Sequence[int | Exception]) -> None:
        """Of the prompts that were completed in this step; an answer follows when its row leaves."""
        if self._known is None or not plan.chunks:
            return
        failed = {row for row, answer in zip(plan.sampled, answers, strict=True) if isinstance(answer, Exception)}
        for chunk in plan.completed:
            if failed.isdisjoint(chunk.rows):
                self._known.keep(chunk.row, self._pages[chunk.row], chunk.end)

    def _answer(self, logits: torch.Tensor, picked: torch.Tensor, plan: StepPlan) -> list[int | Exception]:
        rows = plan.sampled
        if len(rows) != len(logits):
            of_row = torch.tensor(_logits_of_rows(plan)).to(self.device, non_blocking=True)
            logits, picked = logits[of_row], picked[of_row]
        others = [at for at, row in enumerate(rows) if row not in self._plain]
        if len(others) == len(rows):
            return self._choose(logits, rows)
        answers: list[int | Exception] = [
            token if token != _NO_NUMBER else GenerationError("The model computed no numbers for this row.")
            for token in self.fetch(picked)
        ]
        if others:
            chosen = self._choose(logits[others], [rows[at] for at in others])
            for at, answer in zip(others, chosen, strict=True):
                answers[at] = answer
        return answers

    def fetch(self, picked: torch.Tensor) -> list[int]:
        """The one wait of a step."""
        if self.device.type != "cuda":
            return picked.tolist()
        answers = self._answers[: len(picked)]
        answers.copy_(picked, non_blocking=True)
        torch.cuda.current_stream(self.device).synchronize()
        return answers.tolist()


def _greedy(logits: torch.Tensor) -> torch.Tensor:
    """int64 ``[rows]``: the best token of each, or -1 where the best is no number."""
    best, at = logits.max(dim=-1)
    return torch.where(torch.isfinite(best), at, _NO_NUMBER)


def _is_plainly_greedy(params: SamplingParams) -> bool:
    """True where nothing but the largest logit decides, and nothing else is to be told. What is left out here cannot change that."""
    rest = replace(
        params, max_tokens=_GREEDY.max_tokens, top_k=0, top_p=1.0, min_p=0.0, seed=None, stop=(), stop_token_ids=(), n=1,
        ignore_eos=False,
    )  # fmt: skip
    return rest == _GREEDY
