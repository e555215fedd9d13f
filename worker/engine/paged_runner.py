"""Steps over pages: who holds which, what is reused of them, and running ahead.

As soon as a step's tokens are known, decoding goes on with them: the device computes the next step while the loop turns this one's
tokens into text and plans. What the plan then asks for is mostly there already; of a row that ended meanwhile it is left. That
needs no promise of the loop, since nothing is written but what the row would write next, into pages that are its own. (The idea is
that of the overlapped schedulers of SGLang and vLLM.)
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch

from shared.errors import GenerationError
from worker.engine.cache import SlotCache
from worker.engine.decode_inputs import Span
from worker.engine.model_runner import ModelRunner, tell_prompts, told
from worker.engine.paged_forward import NO_NUMBER, PagedForward, greedy
from worker.engine.pages import SCRATCH, PagePool
from worker.engine.prefix_pages import PrefixPages
from worker.engine.protocol import Reused, SamplingParams
from worker.engine.row_sampling import RowSamplings
from worker.engine.scheduler import Chunk, StepPlan
from worker.engine.sequence import Row

logger = logging.getLogger(__name__)

_GREEDY = SamplingParams(temperature=0.0)


@dataclass(frozen=True, slots=True)
class Made:
    """Logits, float32 ``[n, vocab]``, and their greedy choices, int64 ``[n]``; each row begins with the one of its place. starts:
    tokens that each row had in the cache before."""

    logits: torch.Tensor
    picked: torch.Tensor
    places: dict[Row, int]
    starts: dict[Row, int]

    def covers(self, rows: Sequence[Row]) -> bool:
        return all(self.starts.get(row) == row.computed for row in rows)


class PagedRunner(ModelRunner):
    """A ``Runner`` over pages. reuses: full pages of what was computed before are held by rows that begin with the same tokens."""

    def __init__(
        self,
        model: torch.nn.Module,
        device: torch.device,
        paged: PagedForward,
        samplings: RowSamplings | None = None,
        *,
        reuses: bool = True,
    ) -> None:
        super().__init__(model, cast("SlotCache", paged.cache), device, samplings)
        self.paged = paged
        self.pool = PagePool(paged.cache.pages, paged.cache.page_size)
        self.runs_ahead = True
        self._known = PrefixPages(self.pool) if reuses else None
        self._pages: dict[Row, list[int]] = {}
        self._plain: set[Row] = set()
        self._ahead: Made | None = None

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
        return Reused(self._known.queries, self._known.hits, len(self._known) * self.paged.cache.page_bytes)

    def step(self, plan: StepPlan) -> list[int | Exception]:
        ahead, self._ahead = self._ahead, None
        made = []
        if plan.decoding:
            starts = {row: row.computed for row in plan.decoding}
            made.append(ahead if ahead is not None and ahead.covers(plan.decoding) else self._decode(starts, {}))
        if plan.chunks:
            made.append(self._compute(plan))
        answers = self._answer(made, plan.sampled)
        self._keep_pages(plan, answers)
        if self.runs_ahead:
            self._run_ahead(plan, answers)
        return answers

    def recover(self) -> None:
        """Compute one token on the scratch page. Raises whatever is still wrong."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self._ahead = None
        if self._known is not None:
            self._known.clear()
        logits, _ = self.paged.decode([Span([0], 0, [SCRATCH])])
        if not bool(torch.isfinite(logits.amax())):
            raise GenerationError("The model computes no numbers any more.")

    def _decode(self, starts: dict[Row, int], newest: dict[Row, int]) -> Made:
        """starts: the rows, and how many tokens each has in the cache. newest: their newest tokens, where the rows do not know
        them yet."""
        spans = []
        for row, start in starts.items():
            self.pool.grow(self._pages[row], start + 1)
            spans.append(Span((newest.get(row, row.last_token),), start, self._pages[row]))
        logits, picked = self.paged.decode(spans)
        return Made(logits, picked, {row: at for at, row in enumerate(starts)}, starts)

    def _compute(self, plan: StepPlan) -> Made:
        """Prompt chunks."""
        spans, wanted, places, end = [], list[int](), dict[Row, int](), 0
        for chunk in plan.chunks:
            self.pool.grow(self._pages[chunk.row], chunk.end)
            spans.append(Span(chunk.tokens, chunk.start, self._pages[chunk.row]))
            end += chunk.end - chunk.start
            if chunk.completes:
                places |= dict.fromkeys(chunk.rows, len(wanted))
                wanted.append(end - 1)
        asked = told(plan.chunks)
        logits = self.paged.chunks(spans, [*wanted, *asked])
        if asked:
            tell_prompts(plan, logits[len(wanted) :])
            logits = logits[: len(wanted)]
        for chunk in plan.completed:
            self._share_prompt(chunk)
        return Made(logits, greedy(logits), places, {})

    def _run_ahead(self, plan: StepPlan, answers: Sequence[int | Exception]) -> None:
        """Begin the step after this one, for the rows that surely or probably go on. Whatever goes wrong with it, the loop
        asks for that step anyway."""
        ends = {row: row.computed + 1 for row in plan.decoding}
        ends |= {row: chunk.end for chunk in plan.completed for row in chunk.rows}
        newest = {
            row: answer
            for row, answer in zip(plan.sampled, answers, strict=True)
            if not isinstance(answer, Exception) and len(row.output) + 1 < row.group.sampling.max_tokens
        }
        if not newest:
            return
        try:
            self._ahead = self._decode({row: ends[row] for row in newest}, newest)
        except GenerationError:
            pass  # no page is free: the scheduler will say who has to leave
        except Exception:
            logger.warning("A step could not be begun early.", exc_info=True)

    def _share_prompt(self, chunk: Chunk) -> None:
        """Let the other completions of a request have what was computed of its prompt: full pages are shared, the last is copied."""
        pages = self._pages[chunk.row]
        full = chunk.end // self.pool.page_size
        last = pages[full : self.pool.pages_for(chunk.end)]
        for row in chunk.siblings:
            held = self._pages[row]
            self.pool.share(pages[:full])
            held += pages[:full]
            self.paged.cache.copy(last, self.pool.grow(held, chunk.end))

    def _keep_pages(self, plan: StepPlan, answers: Sequence[int | Exception]) -> None:
        """Of the prompts that were completed in this step; an answer follows when its row leaves."""
        if self._known is None or not plan.chunks:
            return
        failed = {row for row, answer in zip(plan.sampled, answers, strict=True) if isinstance(answer, Exception)}
        for chunk in plan.completed:
            if failed.isdisjoint(chunk.rows):
                self._known.keep(chunk.row, self._pages[chunk.row], chunk.end)

    def _answer(self, made: Sequence[Made], rows: Sequence[Row]) -> list[int | Exception]:
        """Of the parts of a step, in the order of ``rows``."""
        if not rows:
            return []
        places: dict[Row, int] = {}
        first = 0
        for part in made:
            places |= {row: first + place for row, place in part.places.items()}
            first += len(part.picked)
        answers: dict[Row, int | Exception] = {}
        if not self._plain.isdisjoint(rows):
            picked = self.paged.fetch(torch.cat([part.picked for part in made]))
            answers = {row: _token_or_error(picked[places[row]]) for row in rows if row in self._plain}
        others = [row for row in rows if row not in self._plain]
        if others:
            logits = made[0].logits if len(made) == 1 else torch.cat([part.logits for part in made])
            index = torch.tensor([places[row] for row in others]).to(self.device, non_blocking=True)
            answers |= zip(others, self._choose(logits[index], others), strict=True)
        return [answers[row] for row in rows]


def _token_or_error(picked: int) -> int | Exception:
    return picked if picked != NO_NUMBER else GenerationError("The model computed no numbers for this row.")


def _is_plainly_greedy(params: SamplingParams) -> bool:
    """True where nothing but the largest logit decides, and nothing else is to be told. What is left out here cannot change that."""
    rest = replace(
        params, max_tokens=_GREEDY.max_tokens, top_k=0, top_p=1.0, min_p=0.0, seed=None, stop=(), stop_token_ids=(), n=1,
        ignore_eos=False,
    )  # fmt: skip
    return rest == _GREEDY
