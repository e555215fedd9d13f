"""gunicorn's configuration file: its log lines in our format, and the metrics' folder cleared up."""

from __future__ import annotations

import shutil
from typing import Any

from gunicorn.glogging import Logger  # type: ignore[import-untyped]  # ships no types
from prometheus_client import multiprocess

from shared.logs import configure_logging
from shared.settings import load_settings

FOLDER = "PROMETHEUS_MULTIPROC_DIR"


class HouseLogger(Logger):  # type: ignore[misc]  # the same
    """Hands gunicorn's lines to our own log, in the master too."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        configure_logging(load_settings(), "api")
        for theirs in (self.error_log, self.access_log):
            theirs.handlers.clear()
            theirs.propagate = True


logger_class = HouseLogger


def child_exit(_server: Any, worker: Any) -> None:
    """A process is gone: its gauges go with it, its counts stay."""
    multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]  # it has no annotations


def on_exit(server: Any) -> None:
    """The server is gone, and so is its folder."""
    shutil.rmtree(server.cfg.env_orig[FOLDER], ignore_errors=True)
