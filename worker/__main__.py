"""``python -m worker``: a worker, set up by the environment alone."""

from __future__ import annotations

import importlib
import sys

from celery.bin.celery import celery

from shared.errors import ConfigurationError
from shared.logs import configure_logging
from shared.settings import load_settings
from worker.lifecycle import EXIT_CONFIGURATION


def main() -> None:
    """Run until a signal. Exit codes: 0 after a drain, 69 the model cannot be loaded, 70 the engine broke, 78 a setting or the
    Redis is wrong."""
    try:
        module = importlib.import_module("worker.app")  # reads the settings; a wrong one is to end with a sentence
    except ConfigurationError as error:
        print(error.message, file=sys.stderr)
        raise SystemExit(EXIT_CONFIGURATION) from error
    configure_logging(load_settings(), "worker")  # Celery warns before it sets its own logs up
    # Celery's own command: unlike Celery.worker_main it hands on the worker's exit code.
    options = ["--without-gossip", "--without-mingle", "--hostname", f"{module.worker_name}@%h"]
    celery.main(args=["--quiet", "--app", "worker.app", "worker", *options], prog_name="celery")


if __name__ == "__main__":
    main()
