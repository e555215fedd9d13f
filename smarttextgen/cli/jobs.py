"""Commands for jobs: submit, get, wait, cancel, jobs."""

from __future__ import annotations

import sys
from itertools import islice
from typing import Annotated

import typer
from rich.text import Text

from smarttextgen.cli import generation
from smarttextgen.cli.connection import JsonOption, KeyOption, UrlOption, connected
from smarttextgen.cli.exits import ExitCode
from smarttextgen.cli.live import follow, follow_as_json
from smarttextgen.cli.output import echo, print_facts, print_job, print_json, print_table, progress
from smarttextgen.client import Client
from smarttextgen.job_summary import STATUS_STYLES
from smarttextgen.types import Job

JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id.")]
Stream = Annotated[bool, typer.Option("--stream", help="Print the answer while it is written.")]
Timeout = Annotated[float | None, typer.Option("--timeout", min=0, help="Longest wait, seconds. Default: for ever.")]


@generation.generates
def submit(
    asked: generation.Generation,
    prompt: Annotated[
        str | None, typer.Argument(help="The prompt; read from stdin where it is - or not given.")
    ] = None,
    token_ids: Annotated[
        bool, typer.Option("--token-ids", help="The prompt is token ids, which the model reads as they are.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the answer, or print the job's id.")] = True,
    stream: Stream = False,
    timeout: Timeout = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Submit a prompt; print the answer (or, with --no-wait, the job's id).

    With --stream the answer is printed while it is written; with --json too, each event is printed as one line.
    """
    if stream and not wait:
        raise typer.BadParameter("--no-wait does not wait for an answer to stream", param_hint="--stream")
    options = asked.request()
    text = _prompt(prompt)
    with connected(url, api_key, as_json=as_json) as client:
        job = client.submit(_token_ids(text) if token_ids else text, **options)
    if not wait:
        print_json(job) if as_json else typer.echo(job.id)
        return
    with connected(url, api_key, as_json=as_json, interrupted=_goes_on(job.id)) as client:
        _finish(client, job.id, timeout, as_json=as_json, stream=stream)


def get(job_id: JobId, url: UrlOption = None, api_key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Show a job as it is now."""
    with connected(url, api_key, as_json=as_json) as client:
        job = client.get(job_id)
    print_json(job) if as_json else print_job(job)


def wait(
    job_id: JobId,
    stream: Stream = False,
    timeout: Timeout = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Wait for a job's end and print its answer, with --stream while it is written."""
    with connected(url, api_key, as_json=as_json, interrupted=_goes_on(job_id)) as client:
        _finish(client, job_id, timeout, as_json=as_json, stream=stream)


def cancel(job_id: JobId, url: UrlOption = None, api_key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Cancel a job; a running one stops within a moment."""
    with connected(url, api_key, as_json=as_json) as client:
        job = client.cancel(job_id)
    print_json(job) if as_json else typer.echo(job.status if job.ended else "stopping")


def retry(job_id: JobId, url: UrlOption = None, api_key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Run a job again that failed, expired or was canceled, under the same id."""
    with connected(url, api_key, as_json=as_json) as client:
        job = client.retry(job_id)
    print_json(job) if as_json else typer.echo(job.status)


def jobs(
    status: Annotated[str | None, typer.Option(help="queued, running, succeeded, failed, canceled, expired")] = None,
    mode: Annotated[str | None, typer.Option(help="Only this mode.")] = None,
    model: Annotated[str | None, typer.Option(help="Only this model.")] = None,
    user_id: Annotated[str | None, typer.Option("--user-id", help="Only this user's.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 20,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List jobs, newest first."""
    with connected(url, api_key, as_json=as_json) as client:
        found = list(islice(client.jobs(status=status, mode=mode, model=model, user_id=user_id), limit))
    if as_json:
        print_json(found)
        return
    print_table(("id", "status", "mode", "created", "prompt"), map(_row, found), "No jobs.", crop=True)


def _finish(client: Client, job_id: str, timeout: float | None, *, as_json: bool, stream: bool) -> None:
    if stream:
        job = follow_as_json(client, job_id, timeout) if as_json else follow(client, job_id, timeout)
        if not job.succeeded and not as_json:
            print_facts(job)
    else:
        with progress(as_json) as on_update:
            job = client.wait(job_id, timeout, on_update=on_update)
        print_json(job) if as_json else _print_answer(job)
    if not job.succeeded:
        raise typer.Exit(ExitCode.JOB_FAILED)


def _print_answer(job: Job) -> None:
    """The answer alone, so that it can be piped on; anything else than an answer in full."""
    if not job.succeeded:
        print_job(job)
        return
    for choice in job.choices[1:] and job.choices:
        echo(f"[{choice.index}] {choice.text}")
    if len(job.choices) < 2:
        echo(job.output or "")


def _prompt(given: str | None) -> str:
    if given is not None and given != "-":
        return given
    if given is None and sys.stdin.isatty():
        raise typer.BadParameter("give a prompt, or pipe one in", param_hint="PROMPT")
    return sys.stdin.read().rstrip("\n")


def _token_ids(text: str) -> list[int]:
    """Whole numbers between anything else that a list is written with: ``[1, 2]``, ``1 2``."""
    try:
        return [int(word) for word in text.strip().strip("[]").replace(",", " ").split()]
    except ValueError:
        raise typer.BadParameter("token ids are whole numbers, such as 464,2068", param_hint="--token-ids") from None


def _goes_on(job_id: str) -> str:
    return f"The job goes on; `smarttextgen wait {job_id}` waits for it again, `smarttextgen cancel {job_id}` stops it."


def _row(job: Job) -> tuple[object, ...]:
    prompt = " ".join((job.input or "").split()) or f"{len(job.input_token_ids)} token ids"
    created = (job.created_at or "")[5:16].replace("T", " ")
    return job.id, Text(job.status, STATUS_STYLES.get(job.status, "")), job.mode, created, prompt[:100]
