"""The one place that turns an ``EngineConfig`` into an engine."""

from __future__ import annotations

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
        # Imported here so that a process that only echoes, or only reads types, never loads torch (300 MB, seconds).
        from worker.engine.transformers_engine import TransformersEngine  # noqa: PLC0415  # the reason above

        return TransformersEngine(config)
    raise ConfigurationError(f"Unknown engine {config.engine!r}: use 'transformers' or 'echo'.", param="engine")
