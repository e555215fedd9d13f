"""Commands for batches that were submitted."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

import typer

from smarttextgen.cli.connection import JsonOption, KeyOption, UrlOption, connected
from smarttextgen.cli.output import print_json, print_table
from smarttextgen.cli.results_file import line_of
from smarttextgen.types import Batch, BatchResult

app = typer.Typer(no_args_is_help=True, help="Batches: look, collect, cancel (`smarttextgen batch` makes them).")
BatchId = Annotated[str, typer.Argument(metavar="ID", help="The batch's id.")]


@app.command()
def get(batch_id: BatchId, url: UrlOption = None, api_key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Show a batch as it is now."""
    with connected(url, api_key, as_json=as_json) as client:
        found = client.batches.get(batch_id)
    _print(found, as_json)


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 20,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List batches, newest first."""
    with connected(url, api_key, as_json=as_json) as client:
        found = list(islice(client.batches.list(), limit))
    print_json(found) if as_json else _print_rows(found)


@app.command()
def results(
    batch_id: BatchId,
    cursor: Annotated[str | None, typer.Option(help="Only those after this cursor (of a line printed before).")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the batch has ended.")] = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the results that are there, a line of JSON each, in the order in which they came."""
    with connected(url, api_key, as_json=as_json, interrupted="The batch goes on.") as client:
        collected: list[BatchResult] = []
        for page in client.batches.result_pages(batch_id, cursor=cursor, follow=follow):
            if as_json:
                collected += page.data
            else:
                typer.echo("".join(line_of(each) for each in page.data), nl=False)
    if as_json:
        print_json(collected)


@app.command()
def cancel(batch_id: BatchId, url: UrlOption = None, api_key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Cancel the jobs of a batch that have not ended; their results so far are kept."""
    with connected(url, api_key, as_json=as_json) as client:
        found = client.batches.cancel(batch_id)
    print_json(found) if as_json else typer.echo(found.status if found.ended else "stopping")


@app.command()
def delete(batch_id: BatchId, url: UrlOption = None, api_key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Delete a batch with its jobs and their results."""
    with connected(url, api_key, as_json=as_json) as client:
        client.batches.delete(batch_id)
    print_json({"id": batch_id, "deleted": True}) if as_json else typer.echo(f"{batch_id} is deleted.")


def _print(batch: Batch, as_json: bool) -> None:
    print_json(batch) if as_json else _print_rows([batch])


def _print_rows(batches: list[Batch]) -> None:
    rows = ((each.id, each.status, (each.created_at or "")[:16].replace("T", " "), _counts(each)) for each in batches)
    print_table(("id", "status", "created", "jobs"), rows, "No batches.")


def _counts(batch: Batch) -> str:
    by_status = [f"{number} {status}" for status, number in batch.counts.items() if number and status != "total"]
    return ", ".join(by_status)
