"""An engine over any runner: the public face, and the thread that loads the model and then runs the loop."""

from __future__ import annotations

import logging
import threading
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
from worker.engine.validation import check_request

logger = logging.getLogger(__name__)

_JOIN_S = 60.0


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
        self._thread: threading.Thread | None = None
        self._started = threading.Event()
        self._start_error: BaseException | None = None

    @property
    def info(self) -> EngineInfo:
        return self._started_loop.model.info

    def start(self) -> None:
        if self._thread is not None:
            raise RuntimeError("The engine was started before.")
        self._thread = threading.Thread(target=self._main, name="engine", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._start_error is not None:
            raise self._start_error

    def healthy(self) -> bool:
        alive = self._thread is not None and self._thread.is_alive()
        return alive and self._loop is not None and not self._loop.dead

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
        if self._thread is None or self._thread is threading.current_thread():
            return
        self._thread.join(max(0.0, drain_s) + _JOIN_S)
        if self._thread.is_alive():
            logger.error("The engine's thread has not ended %s s after its drain time.", _JOIN_S)

    @property
    def _started_loop(self) -> EngineLoop:
        if self._loop is None:
            raise EngineStoppedError("The engine has not been started.")
        return self._loop

    def _main(self) -> None:
        try:
            self._loop = EngineLoop(self._load())
        except BaseException as error:  # noqa: BLE001  # start() raises it in its caller's thread
            self._start_error = error
            return
        finally:
            self._started.set()
        self._loop.run(self._running())


def check_messages(messages: Sequence[Message]) -> None:
    """Raises: InvalidRequestError for no messages at all, or a role that chat templates do not know."""
    if not messages:
        raise InvalidRequestError("There are no messages.", param="messages")
    for message in messages:
        if message.role not in ("system", "user", "assistant"):
            raise InvalidRequestError(f"Unknown role {message.role!r}.", param="messages")
