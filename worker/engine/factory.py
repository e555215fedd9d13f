"""The one place that turns an ``EngineConfig`` into an engine."""

from __future__ import annotations

import os

from shared.errors import ConfigurationError
from worker.engine.config import EngineConfig
from worker.engine.echo import EchoEngine
from worker.engine.protocol import Engine

__all__ = ["EngineConfig", "build_engine"]


def build_engine(config: EngineConfig) -> Engine:
    """An engine that is not started yet.

    Raises: ConfigurationError (an engine that does not exist, no model named).
    """
    if config.engine == "echo":
        return EchoEngine(config)
    if config.engine == "transformers":
        if not config.model_id:
            raise ConfigurationError("MODEL_ID must name a model: a local folder or a hub id.", param="model_id")
        _wait_without_spinning()
        # Imported here so that a process that only echoes, or only reads types, never loads torch (300 MB, seconds).
        from worker.engine.transformers_engine import TransformersEngine  # noqa: PLC0415  # the reason above

        return TransformersEngine(config)
    raise ConfigurationError(f"Unknown engine {config.engine!r}: use 'transformers' or 'echo'.", param="engine")


def _wait_without_spinning() -> None:
    """Threads of a matrix product that wait for each other give their core away instead of spinning on it.

    On cores that others use too, spinning made the 82M model 2-3 times slower and a 4.7M one more than 10 times
    (benchmarks/notes.md). OpenMP reads this once, when torch is loaded. Who wants spinning on a machine of their own sets
    GOMP_SPINCOUNT, which goes before it.
    """
    os.putenv("OMP_WAIT_POLICY", "PASSIVE")
