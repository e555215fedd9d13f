"""An engine over any runner: the public face, and the thread that loads the model and then runs the loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

from shared.errors import EngineStoppedError, InvalidRequestError
from worker.engine.loop import EngineLoop
from worker.engine.protocol import (
    DeviceMemory,
    EngineInfo,
    EngineRequest,
    EngineStats,
    Generation,
    Message,
    OnDelta,
    Piece,
)
from worker.engine.runner import LoadedModel
from worker.engine.thread import EngineThread
from worker.engine.validation import check_request


class SlotEngine:
    """An ``Engine`` over any runner.

    ``load`` is called on the engine's own thread by ``start`` and returns a model that is warm; ``running`` gives the
    context in which that thread then works (torch's inference mode).
    """

    def __init__(
        self,
        load: Callable[[], LoadedModel],
        running: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._load = load
        self._running = running
        self._loop: EngineLoop | None = None
        self._thread = EngineThread(self._main)

    @property
    def info(self) -> EngineInfo:
        return self._started_loop.model.info

    def start(self) -> None:
        self._thread.start()

    def healthy(self) -> bool:
        return self._thread.alive and self._loop is not None and not self._loop.dead

    def encode(self, pieces: Sequence[Piece]) -> tuple[int, ...]:
        return self._started_loop.model.tokenization.encode(pieces)

    def decode(self, ids: Sequence[int]) -> str:
        return self._started_loop.model.tokenization.decode(ids)

    def chat_pieces(self, messages: Sequence[Message]) -> list[Piece] | None:
        check_messages(messages)
        return self._started_loop.model.tokenization.chat_pieces(messages)

    def tokenizer_json(self) -> bytes | None:
        return self._started_loop.model.tokenization.to_json()

    def submit(self, request: EngineRequest, on_delta: OnDelta | None = None) -> Generation:
        loop = self._started_loop
        check_request(request, loop.model.info)
        loop.model.check(request)
        return loop.submit(request, on_delta)

    def stats(self) -> EngineStats:
        return self._started_loop.stats()

    def device_memory(self) -> DeviceMemory | None:
        return self._started_loop.model.memory()

    def shutdown(self, drain_s: float = 0.0) -> None:
        if self._loop is not None:
            self._loop.stop(max(0.0, drain_s))
        self._thread.join(max(0.0, drain_s))

    @property
    def _started_loop(self) -> EngineLoop:
        if self._loop is None:
            raise EngineStoppedError("The engine has not been started.")
        return self._loop

    def _main(self) -> None:
        try:
            self._loop = EngineLoop(self._load())
        except BaseException as error:  # noqa: BLE001  # start() raises it in its caller's thread
            self._thread.failed(error)
            return
        self._thread.started()
        self._loop.run(self._running())


def check_messages(messages: Sequence[Message]) -> None:
    """Raises: InvalidRequestError for no messages at all, or a role that chat templates do not know."""
    if not messages:
        raise InvalidRequestError("There are no messages.", param="messages")
    for message in messages:
        if message.role not in ("system", "user", "assistant"):
            raise InvalidRequestError(f"Unknown role {message.role!r}.", param="messages")
