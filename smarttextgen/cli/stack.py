"""Commands that run a whole stack on this machine, or put one right: up, demo, reconcile.

The launcher is imported within them: it takes Linux or macOS, while the other commands run anywhere and start faster.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from smarttextgen.cli.connection import DataDirOption, data_dir
from smarttextgen.cli.exits import ExitCode

PortOption = Annotated[
    int, typer.Option("--port", min=0, max=65535, help="The API's port; 0: 8000 where it is free, else a free one.")
]
WorkersOption = Annotated[int, typer.Option("--workers", min=1, help="Worker processes, each with a model.")]
EngineOption = Annotated[str | None, typer.Option("--engine", help="transformers (default), echo (no model), …")]
ModelOption = Annotated[str | None, typer.Option("--model", help="Folder or hub id. Default: the bundled model.")]
RedisOption = Annotated[str | None, typer.Option("--redis-url", help="Use this server and start none.")]
EventsOption = Annotated[bool, typer.Option("--json", help="Print what happens as JSON, one object a line.")]


def up(
    port: PortOption = 0,
    workers: WorkersOption = 1,
    engine: EngineOption = None,
    model: ModelOption = None,
    data: DataDirOption = None,
    redis_url: RedisOption = None,
    ready_file: Annotated[
        Path | None, typer.Option("--ready-file", help="Write addresses, keys and pids here once all is ready (JSON).")
    ] = None,
    as_json: EventsOption = False,
) -> None:
    """Start the whole stack and keep it up until Ctrl-C.

    Every setting of the API and the worker (docs/settings.md) passes through the environment, except REDIS_URL:
    use --redis-url. Nothing is left behind, also when this process is killed.
    """
    from smarttextgen.launcher.display import JsonLinesDisplay, TerminalDisplay  # noqa: PLC0415  see the module
    from smarttextgen.launcher.runner import run_stack  # noqa: PLC0415
    from smarttextgen.launcher.stack import StackOptions  # noqa: PLC0415

    options = StackOptions(
        data_dir=data_dir(data).root,
        port=port,
        workers=workers,
        engine=engine,
        model=model,
        redis_url=redis_url,
        ready_file=ready_file,
    )
    display = JsonLinesDisplay(sys.stdout) if as_json else TerminalDisplay(Console(highlight=False))
    _leave(run_stack(options, display))


def demo(
    port: PortOption = 0,
    workers: WorkersOption = 1,
    engine: EngineOption = None,
    model: ModelOption = None,
    as_json: EventsOption = False,
) -> None:
    """Start a stack in a temporary directory, run jobs in every mode, print the answers, stop."""
    from smarttextgen.launcher.demo import Demo  # noqa: PLC0415  see the module
    from smarttextgen.launcher.display import TerminalDisplay  # noqa: PLC0415
    from smarttextgen.launcher.runner import run_stack  # noqa: PLC0415
    from smarttextgen.launcher.stack import StackOptions  # noqa: PLC0415

    console = Console(stderr=as_json, highlight=False)
    with tempfile.TemporaryDirectory(prefix="smarttextgen-demo-") as folder:
        options = StackOptions(data_dir=Path(folder), port=port, workers=workers, engine=engine, model=model)
        tour = Demo(console, as_json=as_json)
        code = run_stack(options, TerminalDisplay(console, brief=True), tour.run)
    _leave(code)


def reconcile(
    redis_url: Annotated[
        str | None,
        typer.Option("--redis-url", envvar="REDIS_URL", help="The server. Default: redis://127.0.0.1:6379/0."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document, for programs.")] = False,
) -> None:
    """Put a fleet right that has no worker up: jobs of workers that are gone wait again, what is too late expires.

    Workers do this themselves. It takes a little longer than a worker's lease.
    """
    from smarttextgen.launcher.programs import module, python_environment  # noqa: PLC0415  see the module

    given = {"REDIS_URL": redis_url} if redis_url else {}
    argv = [*module("shared.reconcile"), *(["--json"] if as_json else [])]
    done = subprocess.run(argv, env={**os.environ, **python_environment(), **given}, check=False)
    _leave(ExitCode.NO_ACCESS if done.returncode else ExitCode.OK)


def _leave(code: int) -> None:
    try:
        sys.stdout.flush()
    except OSError:  # its reader is gone: keep Python from trying again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise typer.Exit(code)
