"""gunicorn's hooks, as its configuration file: what its processes leave in the metrics' folder is cleared up."""

from __future__ import annotations

import shutil
from typing import Any

from prometheus_client import multiprocess

FOLDER = "PROMETHEUS_MULTIPROC_DIR"


def child_exit(_server: Any, worker: Any) -> None:
    """A process is gone: its gauges go with it, its counts stay."""
    multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]  # it has no annotations


def on_exit(server: Any) -> None:
    """The server is gone, and so is its folder."""
    shutil.rmtree(server.cfg.env_orig[FOLDER], ignore_errors=True)
