"""`smarttextgen webhooks listen`: receives deliveries and prints them."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from smarttextgen.cli.connection import KeyOption, UrlOption, connected
from smarttextgen.cli.exits import ExitCode
from smarttextgen.cli.generation import listed
from smarttextgen.cli.output import plain
from smarttextgen.cli.receiver import Receiver
from smarttextgen.client import Client
from smarttextgen.errors import NotFoundError, WebhookVerificationError
from smarttextgen.job_summary import describe
from smarttextgen.types import WebhookEvent

EventTypes = Annotated[
    str | None,
    typer.Option("--events", help="Comma-separated: job.started, job.succeeded, … Default: all but job.output."),
]


def listen(
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: a free one.")] = 0,
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    given_secret: Annotated[
        str | None,
        typer.Option(
            "--secret",
            envvar="SMARTTEXTGEN_WEBHOOK_SECRET",
            help="whsec_… Default: the new endpoint's with --register, else that of single jobs' webhooks.",
        ),
    ] = None,
    register: Annotated[
        bool, typer.Option("--register", help="Make an endpoint for this receiver, and delete it at the end.")
    ] = False,
    public_url: Annotated[
        str | None, typer.Option("--public-url", help="Where the service finds this receiver, for --register.")
    ] = None,
    events: EventTypes = None,
    count: Annotated[int | None, typer.Option("--count", min=1, help="End after so many verified deliveries.")] = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each delivery as one line of JSON.")] = False,
) -> None:
    """Receive webhooks here: print each delivery and whether its signature is right.

    Submit with --webhook and the address it prints, or let --register have everything reported. The service refuses
    private addresses unless they are on its WEBHOOK_ALLOWLIST.
    """
    enough = threading.Event()
    seen = 0

    def received(event: WebhookEvent | WebhookVerificationError) -> None:
        nonlocal seen
        _print_received_json(event) if as_json else _print_received(event)
        seen += isinstance(event, WebhookEvent)
        if count is not None and seen >= count:
            enough.set()

    with (
        connected(url, api_key, as_json=as_json, interrupted="No longer listening.") as client,
        Receiver(host, port, received) as receiver,
        _told_to_leave(),
        _secret_for(client, public_url or receiver.url, events, given_secret, register=register) as trusted,
    ):
        receiver.trust(trusted)
        typer.echo(f"Listening at {receiver.url} (Ctrl-C ends it)", err=True)
        enough.wait()


@contextmanager
def _secret_for(
    client: Client, address: str, events: str | None, given_secret: str | None, *, register: bool
) -> Iterator[str]:
    """The secret to check with; the endpoint that was made for it is deleted at the end."""
    if not register:
        yield given_secret or client.webhooks.default_secret()
        return
    endpoint = client.webhooks.create(
        address, events=listed(events), description="smarttextgen webhooks listen: deleted when it ends"
    )
    try:
        yield given_secret or endpoint.secret or ""
    finally:
        with suppress(NotFoundError):  # somebody else did
            client.webhooks.delete(endpoint.id)


@contextmanager
def _told_to_leave() -> Iterator[None]:
    """SIGTERM is as good as Ctrl-C: what was made for the time is deleted."""

    def leave(_number: int, _frame: object) -> None:
        raise typer.Exit(ExitCode.OK)

    before: Callable[..., object] | int | None = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _print_received(event: WebhookEvent | WebhookVerificationError) -> None:
    time = datetime.now().astimezone().strftime("%H:%M:%S")
    console = Console(highlight=False)
    if isinstance(event, WebhookVerificationError):
        console.print(Text.assemble(f"{time}  ", ("refused", "red"), f"  {event}"), soft_wrap=True)
        return
    about = ""
    if event.job is not None:
        about = " ".join(filter(None, (event.job.id, describe(event.job), _first_words(event.job.output))))
    elif event.batch is not None:
        about = f"{event.batch.id} {event.batch.status}"
    console.print(Text.assemble(f"{time}  ", ("verified", "green"), f"  {event.type}  {about}"), soft_wrap=True)


def _print_received_json(event: WebhookEvent | WebhookVerificationError) -> None:
    if isinstance(event, WebhookVerificationError):
        line: object = {"verified": False, "reason": str(event)}
    else:
        line = {
            "verified": True,
            "id": event.id,
            "type": event.type,
            "timestamp": event.timestamp,
            "data": plain(event.data),
        }
    typer.echo(json.dumps(line, ensure_ascii=False))


def _first_words(output: str | None) -> str:
    words = " ".join((output or "").split())
    return words if len(words) <= 60 else f"{words[:60]}…"
