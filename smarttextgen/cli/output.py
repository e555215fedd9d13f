"""How the commands print: tables and sentences for people, JSON for programs. Progress goes to stderr."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from smarttextgen.job_summary import STATUS_STYLES, describe
from smarttextgen.types import Job

PIPED_WIDTH = 200

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""All but the tab and the end of a line."""


def visible(text: str) -> str:
    """What a model or another client wrote, with its control characters as escapes: they could clear a terminal, or change
    what was read before."""
    return _CONTROLS.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def shown(text: str) -> str:
    """Text of others for stdout: visible on a terminal. A pipe has no screen to be cleared."""
    return visible(text) if sys.stdout.isatty() else text


def echo(text: str, *, nl: bool = True) -> None:
    """Print text of others on stdout."""
    typer.echo(shown(text), nl=nl)


def print_json(value: object) -> None:
    """One JSON document on stdout; records become objects."""
    typer.echo(json.dumps(plain(value), ensure_ascii=False, indent=2))


def plain(value: object) -> object:
    """Records as JSON-ready objects."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str, *, crop: bool = False) -> None:
    """A table on stdout, or ``empty`` where there are no rows. The last column is wrapped, or with ``crop`` cut off."""
    cells = [
        [each if isinstance(each, Text) else Text("" if each is None else visible(str(each))) for each in row]
        for row in rows
    ]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(columns):
        # What stands before the last column is copied or compared: whole, on one line.
        last = number == len(columns) - 1
        widest = max((row[number].cell_len for row in cells), default=0)
        table.add_column(name, min_width=None if last else widest, no_wrap=crop or not last, overflow="ellipsis")
    for row in cells:
        table.add_row(*row)
    console = Console()
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    console.print(table if table.row_count else Text(empty, style="dim"))


def print_job(job: Job) -> None:
    """A job's facts, then its answer."""
    print_facts(job)
    if job.output:
        echo(job.output)


def print_facts(job: Job) -> None:
    """A job's status, id and figures, and why it failed."""
    facts = Text.assemble((job.status, STATUS_STYLES.get(job.status, "")), f"  {job.id}  {describe(job)}")
    console = Console(highlight=False)
    console.print(facts, soft_wrap=True)
    if job.error is not None:
        console.print(Text(visible(f"{job.error.code}: {job.error.message}"), style="red"), soft_wrap=True)


@contextmanager
def progress(quiet: bool) -> Iterator[Callable[[Job], None] | None]:
    """A spinner on stderr that follows a job. Yields what to call with each state of it; None where nobody looks."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield None
        return
    with console.status("submitting") as status:
        yield lambda job: status.update(" ".join(filter(None, (job.status, describe(job)))))
