"""The forward pass over pages: decoding rows from static inputs (through CUDA graphs), prompt chunks as they come.

What a GPU wants of a step: few launches, and no waiting. Decoding is one transfer in and one graph; a greedy choice is made on the
way. Chunks go by themselves: their number of tokens is another each time, so no graph fits them, and the host launches them while
the device decodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from worker.engine.decode_inputs import DecodeInputs, Span
from worker.engine.decode_steps import DecodeSteps
from worker.engine.paged_attention import Kernel, stepping
from worker.engine.paged_cache import PagedBatch, PagedCache, Part
from worker.engine.pages import SCRATCH
from worker.engine.parcel import Parcel, add_part

NO_NUMBER = -1  # in place of a token, where the logits held none

_COMPILED_CHUNK = 5  # tokens


class PagedForward:
    """A transformers model whose attention is ``paged_attention``.

    rows: the most that decode together. context: the most tokens of a row. kernel: attends to pages.
    """

    def __init__(
        self, model: torch.nn.Module, cache: PagedCache, device: torch.device, kernel: Kernel, rows: int, context: int
    ) -> None:
        self.cache = cache
        self.rows = rows
        self._model, self._device, self._kernel, self._context = model, device, kernel, context
        self._network: Callable[..., Any] = model
        width = -(-context // cache.page_size)
        self._inputs = DecodeInputs(rows, width, cache.page_size, device)
        self._every_row = torch.arange(rows + 1, dtype=torch.int32, device=device)
        # A view that does not start at its storage's beginning, as those of chunks do not: for a compiled model that differs.
        self._all_tokens = torch.arange(-2, rows, device=device)[2:]
        self._answers = torch.zeros(2 * rows, dtype=torch.long, pin_memory=device.type == "cuda")
        self.steps = DecodeSteps(self._decode_size, rows)

    def decode(self, rows: Sequence[Span]) -> tuple[torch.Tensor, torch.Tensor]:
        """rows: one token each. Returns float32 ``[rows, vocab]`` and the greedy choices, int64 ``[rows]``, -1 for logits that
        are no numbers. Nothing is waited for; the next call overwrites both."""
        size = self.steps.size_for(len(rows))
        self._inputs.send(rows, size)
        logits, picked = self.steps.run(size)
        return logits[: len(rows)], picked[: len(rows)]

    def chunks(self, spans: Sequence[Span], wanted: Sequence[int]) -> torch.Tensor:
        """wanted: of all the tokens of ``spans``, one after the other, those after which logits are needed. Returns float32
        ``[wanted, vocab]``. Nothing is waited for."""
        parcel, size = Parcel(self._device), self.cache.page_size
        tokens = parcel.add([token for span in spans for token in span.tokens])
        positions = parcel.add([at for span in spans for at in range(span.start, span.end)])
        places = parcel.add([place for span in spans for place in span.places(size)])
        # The model wants something to keep, and a compiled one takes a single number for a case of its own, as it does one token.
        single = sum(len(span.tokens) for span in spans) == 1
        keep = parcel.add([0] if single else [*wanted, 0, 0])
        part = add_part(parcel, spans, size)
        parcel.send()
        batch = PagedBatch(parcel[places], part(parcel))
        return self._logits(parcel[tokens], parcel[positions], batch, parcel[keep])[: len(wanted)]

    def fetch(self, picked: torch.Tensor) -> list[int]:
        """Wait for tokens, the one wait of a step."""
        if self._device.type != "cuda":
            return picked.tolist()
        answers = self._answers[: len(picked)]
        answers.copy_(picked, non_blocking=True)
        torch.cuda.current_stream(self._device).synchronize()
        return answers.tolist()

    # ---- at start, while all pages are free

    def use(self, network: Callable[..., Any]) -> None:
        """Run this in place of the model: a compiled one, or the model itself again."""
        self._network = network

    def compile(self, compiler: str) -> None:
        """Compile the model twice: for one token, and for any number. Raises whatever goes wrong."""
        self.use(torch.compile(self._model, dynamic=True, backend=compiler))
        one = Span([0], 0, [SCRATCH])
        self.decode([one])
        # Numbers that all differ: those that are equal would be taken for always equal.
        self.chunks([Span([0] * _COMPILED_CHUNK, 0, self._first_pages(_COMPILED_CHUNK))], [_COMPILED_CHUNK - 1])
        self.decode([one] * min(2, self.rows))

    def record(self) -> None:
        """Record the decoding steps as CUDA graphs. To be called once everything else works."""
        self._inputs.send([], self.rows)
        self.steps.capture()

    def largest_step(self, tokens: int, rows: int) -> None:
        """Compute so many prompt tokens, and logits for so many rows: nothing takes more memory."""
        self.chunks([Span([0] * tokens, 0, self._first_pages(tokens))], [tokens - 1] * rows)

    def probe(self, tokens: Sequence[int], cut: int) -> torch.Tensor:
        """float32 ``[2, vocab]``, after the last two of ``tokens``: computed as two chunks and a decoding step."""
        held, last = self._first_pages(len(tokens)), len(tokens) - 1
        for start, end in ((0, cut), (cut, last)):
            before_last = self.chunks([Span(tokens[start:end], start, held)], [end - start - 1])
        after_last, _ = self.decode([Span(tokens[last:], last, held)])
        return torch.cat((before_last, after_last))

    def _first_pages(self, tokens: int) -> list[int]:
        return list(range(SCRATCH + 1, SCRATCH + 1 + -(-tokens // self.cache.page_size)))

    # ---- inside

    def _decode_size(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """From the static inputs, of so many rows; what ``decode`` returns."""
        views = self._inputs.views(size)
        starts = self._every_row[: size + 1]
        part = Part(starts, views.used, views.table, views.starts_k, 1, self._context)
        logits = self._logits(views.tokens, views.positions, PagedBatch(views.places, part), self._all_tokens[:size])
        return logits, greedy(logits)

    def _logits(
        self, tokens: torch.Tensor, positions: torch.Tensor, batch: PagedBatch, keep: torch.Tensor
    ) -> torch.Tensor:
        """float32 ``[kept, vocab]``."""
        with stepping(self.cache, batch, self._kernel):
            output = self._network(
                input_ids=tokens.unsqueeze(0),
                position_ids=positions.unsqueeze(0),
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=keep,
            )
        logits: torch.Tensor = output.logits[0].float()
        return logits


def greedy(logits: torch.Tensor) -> torch.Tensor:
    """int64 ``[rows]``: the best token of each, or -1 where the best is no number."""
    best, at = logits.max(dim=-1)
    return at.masked_fill(~torch.isfinite(best), NO_NUMBER)
