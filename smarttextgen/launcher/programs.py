"""The programs that the parts are, and the environment each is started with."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PACKAGE_ROOT = Path(__file__).resolve().parents[2]  # where api, worker and shared lie beside smarttextgen

FLOWER_CONFIG = "smarttextgen.launcher.flower_config"


def module(name: str) -> tuple[str, ...]:
    """``python -m name``, with -P: a folder called api or shared in the user's directory is not ours."""
    return (sys.executable, "-P", "-m", name)


@dataclass(frozen=True)
class Programs:
    """What to run for each part. Tests put stand-ins here; ``redis`` None means: find one."""

    api: tuple[str, ...] = module("api")
    worker: tuple[str, ...] = module("worker")
    courier: tuple[str, ...] = module("worker.courier")
    flower: tuple[str, ...] = (*module("celery"), "--quiet", "--config", FLOWER_CONFIG, "flower")
    keys: tuple[str, ...] = module("shared.keys")
    redis: tuple[str, ...] | None = None


def python_environment() -> dict[str, str]:
    """Our packages are found from any directory, and what a part prints is in its log at once."""
    path = os.pathsep.join(filter(None, (str(PACKAGE_ROOT), os.environ.get("PYTHONPATH"))))
    return {
        "PYTHONPATH": path,
        "PYTHONSAFEPATH": "1",  # also for what a part becomes by exec
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
        "LOG_FORMAT": os.environ.get("LOG_FORMAT", "text"),  # people read these logs
    }


def model_environment(engine: str | None, model: str | None) -> Mapping[str, str]:
    """ENGINE and MODEL_ID where they were asked for, and the settings that name files by their full path.

    The parts run in PACKAGE_ROOT (gunicorn and celery look for modules where they are), so a relative path would lie.
    """
    chosen = {"ENGINE": engine or os.environ.get("ENGINE"), "MODEL_ID": model or os.environ.get("MODEL_ID")}
    chosen["MODES_FILE"] = os.environ.get("MODES_FILE")
    return {name: _full_path(value) for name, value in chosen.items() if value}


def _full_path(value: str) -> str:
    path = Path(value).expanduser()
    return str(path.resolve()) if path.exists() else value
