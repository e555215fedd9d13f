"""The echo engine: no model and no torch, the same loop. It ships for tests and for trying an installation.

It answers with the prompt's own tokens, round and round, up to max_tokens, at a fixed time per step. Its tokens are the
bytes of UTF-8; id 256 ends a text and cannot be written. What needs a model's distribution it refuses.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from shared.errors import InvalidRequestError
from worker.engine.config import EngineConfig
from worker.engine.fingerprint import fingerprint
from worker.engine.protocol import EngineInfo, EngineRequest, Message, Piece, Reused
from worker.engine.runner import LoadedModel
from worker.engine.scheduler import StepPlan
from worker.engine.sequence import Row
from worker.engine.slot_engine import SlotEngine

END_OF_TEXT = 256
_SLOTS = 16
_TOKEN_BUDGET = 512


class EchoTokenization:
    """UTF-8 bytes as token ids."""

    has_chat_template = False

    def encode(self, pieces: Sequence[Piece]) -> tuple[int, ...]:
        return tuple("".join(piece.text for piece in pieces).encode("utf-8", "surrogatepass"))

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(token for token in ids if token < END_OF_TEXT).decode("utf-8", "replace")

    def token_text(self, token: int) -> str:
        return self.decode((token,))

    def chat_pieces(self, messages: Sequence[Message]) -> list[Piece] | None:
        del messages
        return None

    def to_json(self) -> bytes | None:
        return None


class EchoRunner:
    """Says the prompt again. ``delay_s``: how long a step takes, however many rows are in it."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s

    def prepare(self, row: Row) -> None:
        del row  # there is nothing to set up

    def step(self, plan: StepPlan) -> list[int | Exception]:
        if self._delay_s > 0:
            time.sleep(self._delay_s)
        return [row.prompt[len(row.output) % len(row.prompt)] for row in plan.sampled]

    def release(self, row: Row) -> None:
        del row

    def recover(self) -> None:
        return

    def reuse(self, row: Row) -> int:
        del row  # there is nothing to compute, and so nothing to reuse
        return 0

    def reused(self) -> Reused:
        return Reused()

    def vacate(self, row: Row, *, sound: bool) -> None:
        del row, sound


def refuse_what_needs_a_model(request: EngineRequest) -> None:
    """Raises: InvalidRequestError."""
    for name in ("logprobs", "prompt_logprobs", "structure"):
        if getattr(request.sampling, name) is not None:
            raise InvalidRequestError(f"The echo engine has no model, and so no {name}.", param=name)


class EchoEngine(SlotEngine):
    """An ``Engine`` that repeats what it was told."""

    def __init__(self, config: EngineConfig | None = None) -> None:
        config = config or EngineConfig(engine="echo")
        context, slots = config.max_context or config.echo_context, config.slots or _SLOTS
        info = EngineInfo(
            engine="echo",
            model=config.model_id or "echo",
            revision=config.revision or "1",
            device="cpu",
            dtype="none",
            context_length=context,
            vocab_size=END_OF_TEXT + 1,
            slots=slots,
            token_budget=config.token_budget or _TOKEN_BUDGET,
            has_chat_template=False,
            system_fingerprint=fingerprint(engine="echo"),
            contents=config.revision or "1",
            kv_tokens=min(slots * context, config.kv_cache_bytes or slots * context),  # a token of it is a byte
        )
        runner = EchoRunner(config.echo_token_delay_s)
        ends = frozenset({END_OF_TEXT})
        super().__init__(lambda: LoadedModel(info, runner, EchoTokenization(), ends, check=refuse_what_needs_a_model))
