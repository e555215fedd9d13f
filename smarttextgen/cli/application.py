"""The commands, put together."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Annotated

import typer

import smarttextgen
from smarttextgen.cli import batches, jobs, keys, service, stack, webhooks
from smarttextgen.cli.batch import batch
from smarttextgen.cli.exits import EXIT_CODES_HELP

app = typer.Typer(
    name="smarttextgen",
    help="Text-generation jobs: submit, wait, read. And the whole platform on one machine: up, demo.",
    epilog=EXIT_CODES_HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
COMMANDS: tuple[tuple[str, tuple[Callable[..., None], ...]], ...] = (
    ("Jobs", (jobs.submit, batch, jobs.get, jobs.wait, jobs.cancel, jobs.retry, jobs.jobs)),
    ("Service", (service.history, service.modes, service.models, service.health)),
    ("This machine", (stack.up, stack.demo, stack.reconcile)),
)
for panel, commands in COMMANDS:
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.add_typer(batches.app, name="batches", rich_help_panel="Jobs")
app.add_typer(webhooks.app, name="webhooks", rich_help_panel="Service")
app.add_typer(keys.app, name="keys", rich_help_panel="Service")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(smarttextgen.__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows no Chinese shows question marks
    app()
