"""What runs in the process that vLLM starts for its engine core: nothing of ours but a leash.

vLLM runs the model in a child process, which waits for work without end. It watches over its own children, but not over
its parent: without the leash a worker that was killed would leave a process behind that holds the device's memory.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from typing import Any

from vllm.v1.executor import Executor
from vllm.v1.executor.multiproc_executor import MultiprocExecutor
from vllm.v1.executor.uniproc_executor import UniProcExecutor

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class _LeashedMultiprocExecutor(MultiprocExecutor):  # type: ignore[misc]  # vLLM is not there where types are checked
    def _init_executor(self) -> None:
        die_with_parent()
        super()._init_executor()


class _LeashedUniProcExecutor(UniProcExecutor):  # type: ignore[misc]  # as above
    def _init_executor(self) -> None:
        die_with_parent()
        super()._init_executor()


_LEASHED: dict[type, type] = {
    MultiprocExecutor: _LeashedMultiprocExecutor,
    UniProcExecutor: _LeashedUniProcExecutor,
}


def executor_class(vllm_config: Any) -> type:
    """The executor that vLLM would choose, on a leash: what it does first is to bind its process to ours. (Its class is what
    vLLM sends to the new process by name, so this module is imported there.)"""
    chosen: type = Executor.get_class(vllm_config)
    return _LEASHED.get(chosen, chosen)


def die_with_parent() -> None:
    """Have this process killed when the thread that started it ends, kill -9 of its whole process included (Linux). And out
    of its terminal's group: Ctrl-C is for the worker, which drains."""
    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():  # it died before it could be watched
        os._exit(1)
