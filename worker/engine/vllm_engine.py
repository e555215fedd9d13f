"""An ``Engine`` over vLLM's asynchronous engine, which this process owns (docs/decisions/0018-vllm.md).

vLLM computes in a child process of its own and hands tokens to an asyncio loop, which has a thread here: the engine's
thread. Text, stop strings and deltas are made of the tokens by the same code as in the slot engine. What differs: a
template (``shared_tokens``) is not shared between scopes; the logits of a row depend a little on the batch, as vLLM's
kernels do, so that a seeded or greedy answer may differ where two tokens are as good as equal; log-probabilities of a
structured answer are those among the tokens that its structure allows.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import psutil
from vllm.exceptions import VLLMClientError, VLLMError
from vllm.v1.engine.exceptions import EngineDeadError

from shared.errors import EngineStoppedError, GenerationError
from worker.engine.config import EngineConfig
from worker.engine.failures import generation_error
from worker.engine.generation import PendingGeneration
from worker.engine.host_memory import host_memory
from worker.engine.protocol import (
    Delta,
    DeviceMemory,
    EngineInfo,
    EngineRequest,
    EngineStats,
    FinishReason,
    Generation,
    Message,
    OnDelta,
    Piece,
    Reused,
)
from worker.engine.sequence import Row, RowGroup
from worker.engine.slot_engine import check_messages
from worker.engine.thread import EngineThread
from worker.engine.validation import check_request
from worker.engine.vllm_loading import LoadedVllm, load_vllm
from worker.engine.vllm_requests import chances, refusal, vllm_prompt, vllm_sampling

logger = logging.getLogger(__name__)

_PROCESS_S = 2.0  # vLLM's process gets so long to end by itself; it has nothing to save


@dataclass(slots=True, eq=False)
class _Work:
    """One request: its rows, what vLLM was told for each, and the task that follows each. It waits until it has a token: when
    vLLM takes it up is not told."""

    group: RowGroup
    params: list[Any]
    tasks: dict[Row, asyncio.Task[None]] = field(default_factory=dict)
    canceled: bool = False


class VllmEngine:
    """As ``Engine`` says."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._thread = EngineThread(self._main)
        self._vllm: LoadedVllm | None = None
        self._ids = count(1)
        self._generated_tokens = 0
        # Guards the fields after it, which callers and the engine's thread share.
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._works: dict[RowGroup, _Work] = {}
        self._stop_at: float | None = None
        self._ended = False
        # The engine's thread only.
        self._may_end: asyncio.Event | None = None

    # ---- callers, any thread

    @property
    def info(self) -> EngineInfo:
        return self._running_vllm.info

    def start(self) -> None:
        self._thread.start()

    def healthy(self) -> bool:
        vllm = self._vllm
        alive = self._thread.alive and not self._ended
        return alive and vllm is not None and vllm.llm is not None and not vllm.llm.errored

    def encode(self, pieces: Sequence[Piece]) -> tuple[int, ...]:
        return self._running_vllm.tokenization.encode(pieces)

    def chat_pieces(self, messages: Sequence[Message]) -> list[Piece] | None:
        check_messages(messages)
        return self._running_vllm.tokenization.chat_pieces(messages)

    def decode(self, ids: Sequence[int]) -> str:
        return self._running_vllm.tokenization.decode(ids)

    def tokenizer_json(self) -> bytes | None:
        return self._running_vllm.tokenization.to_json()

    def submit(self, request: EngineRequest, on_delta: OnDelta | None = None) -> Generation:
        vllm = self._running_vllm
        if not self.healthy():
            raise EngineStoppedError()
        check_request(request, vllm.info)
        handle = PendingGeneration()
        group = RowGroup(request, handle, on_delta, vllm.tokenization.decode, vllm.tokenization.token_text)
        work = _Work(group, [self._params(request, row.index) for row in group.rows])
        handle.when_canceled(lambda: self._post_cancel(work))
        with self._lock:
            if self._stop_at is not None or not self.healthy():
                raise EngineStoppedError()
            self._works[group] = work
            self._post(self._accept, work)
        return handle

    def stats(self) -> EngineStats:
        tally = self._running_vllm.tally
        with self._lock:
            works = list(self._works.values())
        begun = [work for work in works if work.group.begun]
        return EngineStats(
            running=sum(len(work.group.open_rows) for work in begun),
            waiting=len(works) - len(begun),
            steps=tally.steps,
            prompt_tokens=tally.prompt_tokens,
            generated_tokens=self._generated_tokens,
            step_rows=tally.step_rows,
            token_gaps=tally.gaps(),
            kv_cache_usage=tally.kv_cache_usage if works else 0.0,
            preemptions=tally.preemptions,
            reused=Reused(tally.prefix_queries, tally.prefix_hits),
        )

    def device_memory(self) -> DeviceMemory | None:
        """On a CPU what this process and vLLM's have resident. On a GPU nothing: to ask would open a context of this process's
        own there; NVIDIA's exporter tells."""
        own = host_memory()
        if own is None or self._running_vllm.info.device != "cpu":
            return None
        others = 0
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                others += child.memory_info().rss
        return replace(own, used=own.used + others)

    def shutdown(self, drain_s: float = 0.0) -> None:
        with self._lock:
            deadline = time.monotonic() + max(0.0, drain_s)
            self._stop_at = deadline if self._stop_at is None else min(self._stop_at, deadline)
            if not self._ended:
                self._post(self._stop)
        self._thread.join(max(0.0, drain_s))

    @property
    def _running_vllm(self) -> LoadedVllm:
        if self._vllm is None:
            raise EngineStoppedError("The engine has not been started.")
        return self._vllm

    def _params(self, request: EngineRequest, index: int) -> Any:
        """Raises: InvalidRequestError for what vLLM does not take, found in the caller's thread."""
        vllm = self._running_vllm
        params = vllm_sampling(request.sampling, index, vllm.end_tokens, vllm.info.vocab_size)
        config = vllm.llm.vllm_config
        try:
            params.verify(config.model_config, None, config.structured_outputs_config, vllm.llm.tokenizer)
        except (VLLMError, ValueError) as error:
            raise refusal(error, request.sampling) from error
        return params

    def _post(self, action: Callable[..., None], *arguments: object) -> None:
        """Have it called on the engine's thread. Under the lock."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(action, *arguments)

    def _post_cancel(self, work: _Work) -> None:
        work.canceled = True
        with self._lock:
            if not self._ended:
                self._post(self._cancel, work)

    # ---- the engine's thread

    def _main(self) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(self._run())
        except BaseException as error:
            logger.critical("The engine's loop died.", exc_info=True)
            self._thread.failed(error)
        finally:
            self._end(EngineStoppedError())
            self._thread.started()

    async def _run(self) -> None:
        """Load, serve until it may end, and take vLLM's process along."""
        try:
            vllm = await load_vllm(self._config)
        except Exception as error:  # noqa: BLE001  # start() raises it in its caller's thread
            self._thread.failed(error)
            return
        try:
            self._vllm = vllm
            self._may_end = asyncio.Event()
            with self._lock:
                self._loop = asyncio.get_running_loop()
                if self._stop_at is not None:
                    self._may_end.set()
            self._thread.started()
            await self._may_end.wait()
        finally:
            tasks = self._end(EngineStoppedError())
            await asyncio.gather(*tasks, return_exceptions=True)
            self._vllm = replace(vllm, llm=None)
            vllm.llm.shutdown(timeout=_PROCESS_S)

    def _accept(self, work: _Work) -> None:
        for row, params in zip(work.group.rows, work.params, strict=True):
            if not work.canceled and not work.group.ended:
                work.tasks[row] = asyncio.create_task(self._follow(work, row, params))

    async def _follow(self, work: _Work, row: Row, params: Any) -> None:
        """One completion from its request to vLLM to its end; every way out ends it."""
        try:
            await self._stream(work, row, params)
        except asyncio.CancelledError:
            if not work.group.ended and row.finish_reason is None:
                raise  # by nobody of us
        except EngineDeadError:
            logger.critical("vLLM's process has died.")
            self._end(EngineStoppedError("The engine has died."))
            self._let_end()
        except VLLMClientError as error:
            self._fail(work, refusal(error, work.group.sampling))
        except Exception as error:
            logger.exception("A generation failed.")
            self._fail(work, generation_error("vLLM failed", error))

    async def _stream(self, work: _Work, row: Row, params: Any) -> None:
        vllm, request = self._running_vllm, work.group.request
        adapter = vllm.adapters[request.adapter] if request.adapter is not None else None
        outputs = vllm.llm.generate(vllm_prompt(request), params, f"{next(self._ids)}", lora_request=adapter)
        # Closed where it is left early (a stop string): that has vLLM stop too.
        async with contextlib.aclosing(outputs):
            async for output in outputs:
                self._take(work, row, output)
                if row.finish_reason is not None or work.group.ended:
                    return
        self._fail(work, GenerationError("vLLM gave this generation up."))

    def _take(self, work: _Work, row: Row, output: Any) -> None:
        """New tokens of a row. ``output``: vLLM's RequestOutput, with what is new since the last."""
        (new,) = output.outputs
        group, sampling = work.group, work.group.sampling
        if row.index == 0 and output.num_cached_tokens is not None:
            group.cached_tokens = output.num_cached_tokens
        if sampling.prompt_logprobs is not None and output.prompt_logprobs:
            group.prompt_chances = chances(output.prompt_logprobs, sampling.prompt_logprobs)
        told = None if sampling.logprobs is None else chances(new.logprobs or (), sampling.logprobs)
        for at, token in enumerate(new.token_ids):
            if work.canceled:  # and the order to has not come round yet
                self._cancel(work)
            if group.ended or row.finish_reason is not None:
                return
            row.chances = None if told is None else told[at]
            self._take_token(work, row, token)

    def _take_token(self, work: _Work, row: Row, token: int) -> None:
        self._generated_tokens += 1
        work.group.begun = True
        work.group.first_token_at = work.group.first_token_at or time.perf_counter()
        try:
            delta = row.accept(token, self._running_vllm.end_tokens)
        except Exception as error:  # noqa: BLE001  # this request's caller gets it
            self._fail(work, generation_error("Its tokens could not be turned into text", error))
            return
        self._tell(work, delta)
        self._complete_if_finished(work)

    def _tell(self, work: _Work, delta: Delta | None) -> None:
        if delta is None or work.group.on_delta is None:
            return
        try:
            work.group.on_delta(delta)
        except BaseException as error:  # noqa: BLE001  # the caller's code: not even a SystemExit of it may end the loop
            self._fail(work, generation_error("Its listener raised", error))

    def _cancel(self, work: _Work) -> None:
        for row in work.group.rows:
            if not work.group.ended and row.finish_reason is None:
                self._tell(work, row.finish(FinishReason.CANCELED))
        self._complete_if_finished(work)

    def _complete_if_finished(self, work: _Work) -> None:
        if work.group.finished and not work.group.ended:
            self._leave(work)
            work.group.handle.complete(work.group.result())

    def _fail(self, work: _Work, error: Exception) -> None:
        if not work.group.ended:
            self._leave(work)
            work.group.handle.fail(error)

    def _leave(self, work: _Work) -> None:
        work.group.ended = True
        current = _current_task()
        for task in work.tasks.values():
            if task is not current:
                task.cancel()  # which has vLLM stop what is not at its end
        with self._lock:
            self._works.pop(work.group, None)
            if self._stop_at is not None and not self._works:
                self._let_end()

    def _stop(self) -> None:
        """Refuse what has not begun, and end when the rest has, or at the deadline."""
        with self._lock:
            works = list(self._works.values())
            left_s = max(0.0, (self._stop_at or 0.0) - time.monotonic())
        for work in works:
            if not work.group.begun:
                self._fail(work, EngineStoppedError())
        if not works or left_s == 0.0:
            self._let_end()
        else:
            asyncio.get_running_loop().call_later(left_s, self._let_end)

    def _let_end(self) -> None:
        if self._may_end is not None:
            self._may_end.set()

    def _end(self, error: Exception) -> list[asyncio.Task[None]]:
        """Nobody waits on an engine that has ended. Returns the tasks that are on their way to their end."""
        with self._lock:
            self._ended = True
            works = list(self._works.values())
        for work in works:
            self._fail(work, error)
        current = _current_task()
        return [task for work in works for task in work.tasks.values() if task is not current]


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # the loop is over
        return None
