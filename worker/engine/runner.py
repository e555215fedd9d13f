"""What the engine loop needs of whatever runs the model. No torch here: the echo engine has a runner too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from worker.engine.host_memory import host_memory
from worker.engine.protocol import DeviceMemory, EngineInfo, EngineRequest, Message, Piece, Reused
from worker.engine.scheduler import Keeper, StepPlan
from worker.engine.sequence import Row


class Runner(Keeper, Protocol):
    """Runs steps, and keeps keys and values. Everything here is called on the engine's thread."""

    def prepare(self, row: Row) -> None:
        """Set up what a row needs for sampling. An error fails that request alone."""
        ...

    def step(self, plan: StepPlan) -> list[int | Exception]:
        """For each row of ``plan.sampled``, in order: its next token, or what went wrong with it alone.

        An exception out of here fails every row of the plan.
        """
        ...

    def release(self, row: Row) -> None:
        """Forget a row: it has left its slot, and will not come back."""
        ...

    def reused(self) -> Reused:
        """What ``reuse`` has brought so far. Any thread."""
        ...

    def recover(self) -> None:
        """After a step that raised: prove that the model still works, or raise."""
        ...


class Tokenization(Protocol):
    """Text to ids and back, for one model. Any thread."""

    @property
    def has_chat_template(self) -> bool: ...

    def encode(self, pieces: Sequence[Piece]) -> tuple[int, ...]: ...

    def decode(self, ids: Sequence[int]) -> str:
        """Without special tokens, and with nothing cleaned up."""
        ...

    def token_text(self, token: int) -> str:
        """A token alone, special ones too; marks for half characters."""
        ...

    def chat_pieces(self, messages: Sequence[Message]) -> list[Piece] | None: ...

    def to_json(self) -> bytes | None: ...


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is warm: all that the loop needs to start. ``end_tokens``: ids that end an answer. ``memory``: asked for
    statistics, on any thread. ``check``: what this engine itself has to say about a request that is valid otherwise, in its caller's
    thread; raises InvalidRequestError."""

    info: EngineInfo
    runner: Runner
    tokenization: Tokenization
    end_tokens: frozenset[int]
    memory: Callable[[], DeviceMemory | None] = host_memory
    check: Callable[[EngineRequest], None] = lambda request: None  # noqa: ARG005  # most have nothing to say
