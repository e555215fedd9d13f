"""``python -m api``: gunicorn with our settings, in place of this process, so that signals reach it directly."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
from typing import NoReturn

from api.gunicorn_hooks import FOLDER
from shared.errors import ConfigurationError
from shared.modes import load_modes
from shared.settings import Settings, load_settings
from shared.traces import check_traces

GRACE_S = 30
SPARE_FILES = 2_048
"""Beside streams and threads: kept connections, Redis, logs."""


def command(settings: Settings) -> list[str]:
    """The command line of the server."""
    options = {
        "--bind": f"{settings.api_host}:{settings.api_port}",
        "--workers": settings.api_workers,
        "--threads": settings.api_threads,
        "--worker-class": "api.server.DeadlineWorker",
        "--worker-tmp-dir": _memory_folder(),  # a heartbeat file: no disk
        # Longer than the longest poll, or a drain would cut those that came just before it.
        "--graceful-timeout": GRACE_S,
        "--keep-alive": 30,  # also how long a connection may stay silent before its first request
        "--backlog": 1024,
        "--limit-request-line": 8190,
        "--limit-request-fields": 64,
        "--limit-request-field_size": 8190,
        "--log-level": settings.log_level.lower(),
    }
    flags = [str(part) for name, value in options.items() if value is not None for part in (name, value)]
    hooks = ["--config", "python:api.gunicorn_hooks"]
    return [sys.executable, "-m", "gunicorn", *hooks, *flags, "--no-control-socket", "api.wsgi:app"]


def _memory_folder() -> str | None:
    """A folder that is no disk, where there is one."""
    folder = "/dev/shm"  # noqa: S108  # nosec B108  # its files get names of their own
    return folder if os.access(folder, os.W_OK) else None


def allow_open_files(settings: Settings) -> None:
    """Each stream is an open file; many systems allow 1,024 of them unless asked."""
    wanted = settings.api_max_streams + settings.api_threads + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def main() -> NoReturn:
    """Does not return where the settings are right. Exit code 78 (EX_CONFIG) with a sentence where they are wrong."""
    try:
        settings = load_settings()
        load_modes(settings.modes_file)  # each process would refuse it with a traceback, again and again
        check_traces(settings)
    except ConfigurationError as error:
        print(error.message, file=sys.stderr)  # noqa: T201  # logging is not set up, and never will be here
        raise SystemExit(78) from error
    allow_open_files(settings)
    arguments = command(settings)
    # Where its processes count. prometheus_client looks for the variable when it is imported, so it has to be there early.
    os.putenv(FOLDER, tempfile.mkdtemp(prefix="smarttextgen-metrics-", dir=_memory_folder()))
    os.execv(arguments[0], arguments)  # noqa: S606  # nosec B606  # our own interpreter, no shell


if __name__ == "__main__":
    main()
