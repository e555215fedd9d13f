"""`smarttextgen batch`: a file of prompts in, a file of results out, whatever happens in between."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from smarttextgen.cli import generation
from smarttextgen.cli.batch_input import MOST_JOBS, Item, parts, read_items
from smarttextgen.cli.connection import KeyOption, UrlOption, connected
from smarttextgen.cli.exits import ExitCode, told
from smarttextgen.cli.output import print_json
from smarttextgen.cli.results_file import ResultsFile, line_of
from smarttextgen.client import Client
from smarttextgen.errors import ConfigurationError, InvalidRequestError, SmartTextGenError
from smarttextgen.types import BatchResult, GenerateOptions, ResultPage

GOES_ON = (
    "What was submitted goes on; the same command goes on from here. `smarttextgen batches list` shows it, "
    "`smarttextgen batches cancel ID` stops it."
)
Progressed = Callable[[Counter[str]], None]


@generation.generates
def batch(
    asked: generation.Generation,
    prompts: Annotated[
        str, typer.Argument(metavar="FILE", help="JSON lines: {prompt, custom_id, …} or a string. - is stdin.")
    ],
    out: Annotated[str, typer.Option("--out", help="Where results go, a line each, as they come. - is stdout.")] = "-",
    text: Annotated[bool, typer.Option("--text", help="Each line is a prompt as it stands.")] = False,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, max=MOST_JOBS, help="Most prompts in one batch; more make several.")
    ] = MOST_JOBS,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as one JSON document.")] = False,
) -> None:
    """Submit a file of prompts and write down each result as it comes.

    Options hold for lines that say nothing themselves. Killed and started again with the same arguments, it goes on
    where it was: nothing is submitted twice, no result is lost or doubled. Beside --out it keeps a file .state for that;
    with --out - the prompts themselves are the key, so that a second run within a day prints the same results.
    """
    if as_json and out == "-":
        raise typer.BadParameter("stdout holds the results; name a file with --out", param_hint="--json")
    options = asked.request()
    with told(as_json):
        items = read_items(_content(prompts), prompts, as_text=text)
    work = _Work(items, options, batch_size)
    with connected(url, api_key, as_json=as_json, interrupted=GOES_ON) as client, _bar(len(items)) as progressed:
        counts, ids = work.to_stdout(client) if out == "-" else work.to_file(client, Path(out), progressed)
    if as_json:
        print_json({"out": out, "batches": ids, "counts": {"total": counts.total(), **counts}})
    else:
        said = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
        typer.echo(f"{counts.total()} results: {said}", err=True)
    if counts["succeeded"] < counts.total():
        raise typer.Exit(ExitCode.JOB_FAILED)


class _Work:
    """The batches to make, one after the other."""

    def __init__(self, items: list[Item], options: GenerateOptions, batch_size: int) -> None:
        self._parts = parts(items, batch_size)
        self._options = options
        everything = [[[item.request for item in part] for part in self._parts], options]
        self._fingerprint = hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()

    def to_file(self, client: Client, path: Path, progressed: Progressed) -> tuple[Counter[str], list[str]]:
        """Results into a file, from where it ends; returns counts by status, and the batches' ids."""
        first = 0
        with ResultsFile(path, self._fingerprint) as file:
            progressed(file.counts)
            for number, part in enumerate(self._parts):
                there = file.total - first
                if there < len(part):
                    batch_id = file.state.batch_id(number)
                    if batch_id is None:
                        file.asking(number)
                        batch_id = self._create(client, part, file.state.key(number))
                        file.made(number, batch_id)
                    for page in client.batches.result_pages(batch_id, cursor=file.cursor if there > 0 else None):
                        file.append(_placed(page, first))
                        progressed(file.counts)
                    _complete(batch_id, file.total - first, len(part))
                first += len(part)
            return file.counts, [each["id"] for each in file.state.batches]

    def to_stdout(self, client: Client) -> tuple[Counter[str], list[str]]:
        """Results onto stdout."""
        first = 0
        counts: Counter[str] = Counter()
        ids: list[str] = []
        for number, part in enumerate(self._parts):
            ids.append(self._create(client, part, f"{number}-{self._fingerprint}"))
            before = counts.total()
            for page in client.batches.result_pages(ids[-1]):
                typer.echo("".join(line_of(each) for each in _placed(page, first)), nl=False)
                counts.update(each.status for each in page.data)
            _complete(ids[-1], counts.total() - before, len(part))
            first += len(part)
        return counts, ids

    def _create(self, client: Client, part: list[Item], key: str) -> str:
        requests = [item.request for item in part]
        try:
            return client.batches.create(requests, idempotency_key=key, **self._options).id
        except InvalidRequestError as error:
            place = re.match(r"(?:requests|prompts)\.(\d+)\.?(.*)", error.param or "")
            if place is None:
                raise
            raise InvalidRequestError(
                f"Line {part[int(place[1])].line}: {error.message}",
                status=error.status,
                code=error.code,
                param=place[2] or "prompt",
                request_id=error.request_id,
            ) from error


def _placed(page: ResultPage, first: int) -> tuple[BatchResult, ...]:
    """Results with their place in the file of prompts, where that made several batches."""
    return tuple(replace(each, index=each.index + first) for each in page.data)


def _complete(batch_id: str, got: int, wanted: int) -> None:
    if got != wanted:
        raise SmartTextGenError(f"{batch_id} has ended with {got} results for {wanted} prompts")


def _content(name: str) -> bytes:
    """Raises: ConfigurationError when it cannot be read."""
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{name}: {error.strerror}") from error


@contextmanager
def _bar(total: int) -> Iterator[Progressed]:
    """A progress bar on stderr, where that is a terminal."""
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]}", style="red"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total, failed="")

        def show(counts: Counter[str]) -> None:
            failed = counts.total() - counts["succeeded"]
            progress.update(task, completed=counts.total(), failed=f"{failed} without success" if failed else "")

        yield show
