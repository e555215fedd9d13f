"""An output stream that outlives its reader."""

from __future__ import annotations

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
            self._broken = True
        return len(text)

    def flush(self) -> None:
        try:
            if not self._broken:
                self._stream.flush()
        except (OSError, ValueError):
            self._broken = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def steady(stream: IO[str]) -> IO[str]:
    """``stream``, made steady."""
    return cast("IO[str]", SteadyOutput(stream))
