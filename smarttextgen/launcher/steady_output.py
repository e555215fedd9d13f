"""An output stream that outlives its reader."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import IO, Any, cast


class SteadyOutput:
    """Writes to ``stream`` until that fails (closed terminal, broken pipe), then to nowhere.

    A launcher whose terminal was closed still has processes to end; an error while printing must not stop it.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._broken = False

    def write(self, text: str) -> int:
        try:
            if not self._broken:
                self._stream.write(text)
        except (OSError, ValueError):
            self._break()
        return len(text)

    def flush(self) -> None:
        try:
            if not self._broken:
                self._stream.flush()
        except (OSError, ValueError):
            self._break()

    def _break(self) -> None:
        """From now on to nowhere; also what is still in the stream's buffer, which Python flushes when it exits (and
        exits with 120 where that fails)."""
        self._broken = True
        with suppress(OSError, ValueError):  # a stream without a file has no such buffer
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def steady(stream: IO[str]) -> IO[str]:
    """``stream``, made steady."""
    return cast("IO[str]", SteadyOutput(stream))
