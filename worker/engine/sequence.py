"""The state of what runs: a row is one completion, a group is one request with its n rows."""

from __future__ import annotations

import time

from worker.engine.detokenizer import Decode, Detokenizer
from worker.engine.generation import PendingGeneration
from worker.engine.places import Chances, TokenText
from worker.engine.protocol import (
    Completion,
    Delta,
    EngineRequest,
    EngineResult,
    FinishReason,
    OnDelta,
    Place,
    SamplingParams,
    Usage,
)
from worker.engine.stopping import StopStrings


class Row:
    """One completion. ``slot``: its place in the batch, or -1. ``computed``: tokens whose keys and values are in the cache.
    ``pages``: what it holds of the ledger. ``chances``: left by the runner with each token, where ``logprobs`` was asked for."""

    def __init__(self, group: RowGroup, index: int, decode: Decode) -> None:
        self.group = group
        self.index = index
        self.slot = -1
        self.computed = 0
        self.pages = 0
        self.output: list[int] = []
        self.finish_reason: FinishReason | None = None
        self.text = ""
        self.chances: Chances | None = None
        self._places: list[Place] = []
        self._reported = 0
        self._detokenizer = Detokenizer(decode)
        self._stops = StopStrings(group.sampling.stop)

    @property
    def prompt(self) -> tuple[int, ...]:
        return self.group.request.prompt

    @property
    def last_token(self) -> int:
        return self.output[-1] if self.output else self.prompt[-1]

    @property
    def length(self) -> int:
        """Tokens that are known: the prompt's and the output's."""
        return len(self.group.request.prompt) + len(self.output)

    def tokens(self, start: int, end: int) -> tuple[int, ...]:
        """Known tokens ``start``..``end``-1."""
        prompt = self.prompt
        if end <= len(prompt):
            return prompt[start:end]
        return (*prompt[start:], *self.output[max(0, start - len(prompt)) : end - len(prompt)])

    def accept(self, token: int, end_tokens: frozenset[int]) -> Delta | None:
        """Take the token that was sampled; finish the row if it ends here. Returns what may be shown, if anything."""
        sampling = self.group.sampling
        self.output.append(token)
        if self.chances is not None:
            self._places.append(self.chances.place(self.group.token_text))
        early = len(self.output) <= sampling.min_tokens
        ends = (token in end_tokens and not sampling.ignore_eos) or token in sampling.stop_token_ids
        if ends and not early:
            return self.finish(FinishReason.STOP)
        new = self._stops.feed(self._detokenizer.push(token), early=early)
        if self._stops.matched:
            self.finish_reason = FinishReason.STOP
            return self._delta(new)
        if len(self.output) >= sampling.max_tokens:
            return self.finish(FinishReason.LENGTH, new)
        return self._delta(new) if new else None

    def finish(self, reason: FinishReason, new: str = "") -> Delta | None:
        """End the row and let out what was held back."""
        self.finish_reason = reason
        return self._delta(new + self._stops.flush())

    def _delta(self, text: str) -> Delta | None:
        """The text with the tokens not reported yet, so that the counts of all deltas add up to the row's tokens."""
        before, self._reported = self._reported, len(self.output)
        self.text += text
        count = self._reported - before
        return Delta(self.index, text, count, tuple(self._places[before:])) if text or count else None

    def completion(self) -> Completion:
        assert self.finish_reason is not None
        places = None if self.group.sampling.logprobs is None else tuple(self._places)
        return Completion(self.index, self.text, self.finish_reason, tuple(self.output), places)


class RowGroup:
    """One request: its rows, its handle, and who wants to hear of new text. ``begun``: it was in the batch, if it is not now.
    ``cached_tokens``: of its prompt, not computed but reused when it began. ``preempted_at``: when it last had to leave the batch.
    ``suspect``: it was in a step that failed, and has had no token since. ``beginnings``: after such steps, so far.
    ``prompt_chances``: of its prompt's tokens but the first, as far as they were computed, where ``prompt_logprobs`` was asked
    for."""

    def __init__(
        self,
        request: EngineRequest,
        handle: PendingGeneration,
        on_delta: OnDelta | None,
        decode: Decode,
        token_text: TokenText = str,
    ) -> None:
        self.request = request
        self.handle = handle
        self.on_delta = on_delta
        self.token_text = token_text
        self.prompt_chances: list[Chances] = []
        self.ended = False
        self.begun = False
        self.cached_tokens: int | None = None
        self.submitted_at = time.perf_counter()
        self.first_token_at: float | None = None
        self.preempted_at: float | None = None
        self.suspect = False
        self.beginnings = 0
        self.rows = [Row(self, index, decode) for index in range(request.sampling.n)]

    @property
    def sampling(self) -> SamplingParams:
        return self.request.sampling

    @property
    def open_rows(self) -> list[Row]:
        """Those that are not finished."""
        return [row for row in self.rows if row.finish_reason is None]

    @property
    def finished(self) -> bool:
        return not self.open_rows

    def result(self) -> EngineResult:
        """The completions in index order; the prompt is counted once."""
        generated = sum(len(row.output) for row in self.rows)
        usage = Usage(len(self.request.prompt), generated, self.cached_tokens or 0)
        first_token_s = None if self.first_token_at is None else self.first_token_at - self.submitted_at
        completions = tuple(row.completion() for row in self.rows)
        return EngineResult(completions, usage, first_token_s, self._prompt_places())

    def _prompt_places(self) -> tuple[Place, ...] | None:
        if self.sampling.prompt_logprobs is None:
            return None
        return tuple(chances.place(self.token_text) for chances in self.prompt_chances)
