"""Commands for webhooks: endpoints, their deliveries, and a receiver for work on one's own machine."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

import typer
from rich.text import Text

from smarttextgen.cli.connection import JsonOption, KeyOption, UrlOption, connected
from smarttextgen.cli.generation import listed
from smarttextgen.cli.listen import EventTypes, listen
from smarttextgen.cli.output import print_json, print_table
from smarttextgen.types import Delivery, WebhookEndpoint

app = typer.Typer(no_args_is_help=True, help="Webhooks: endpoints, deliveries, and a receiver for local work.")
EndpointId = Annotated[
    str, typer.Argument(metavar="ID", help="The endpoint's id; `default` is that of single jobs' webhooks.")
]
Description = Annotated[str | None, typer.Option("--description", help="For people.")]


@app.command()
def create(
    target: Annotated[str, typer.Argument(metavar="URL", help="Where the service is to report to.")],
    events: EventTypes = None,
    description: Description = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an endpoint; its secret is shown this once."""
    with connected(url, api_key, as_json=as_json) as client:
        endpoint = client.webhooks.create(target, events=listed(events), description=description)
    _print_secret(endpoint, as_json)


@app.command("list")
def list_(url: UrlOption = None, api_key: KeyOption = None, as_json: JsonOption = False) -> None:
    """List the endpoints, without their secrets."""
    with connected(url, api_key, as_json=as_json) as client:
        found = list(client.webhooks.list())
    print_json(found) if as_json else _print_endpoints(found)


@app.command()
def get(endpoint_id: EndpointId, url: UrlOption = None, api_key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Show an endpoint."""
    with connected(url, api_key, as_json=as_json) as client:
        found = client.webhooks.get(endpoint_id)
    print_json(found) if as_json else _print_endpoints([found])


@app.command()
def update(
    endpoint_id: EndpointId,
    target: Annotated[str | None, typer.Option("--to", metavar="URL", help="Another URL to report to.")] = None,
    events: EventTypes = None,
    description: Description = None,
    enable: Annotated[bool | None, typer.Option("--enable/--disable", help="Send to it, or do not.")] = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change what is given of an endpoint."""
    status = None if enable is None else "enabled" if enable else "disabled"
    with connected(url, api_key, as_json=as_json) as client:
        found = client.webhooks.update(
            endpoint_id, url=target, events=listed(events), description=description, status=status
        )
    print_json(found) if as_json else _print_endpoints([found])


@app.command()
def delete(
    endpoint_id: EndpointId, url: UrlOption = None, api_key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """Delete an endpoint; nothing more is sent to it."""
    with connected(url, api_key, as_json=as_json) as client:
        client.webhooks.delete(endpoint_id)
    print_json({"id": endpoint_id, "deleted": True}) if as_json else typer.echo(f"{endpoint_id} is deleted.")


@app.command("rotate-secret")
def rotate_secret(
    endpoint_id: EndpointId, url: UrlOption = None, api_key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """Give an endpoint a new secret, shown this once; the old one signs along for 24 hours."""
    with connected(url, api_key, as_json=as_json) as client:
        endpoint = client.webhooks.rotate_secret(endpoint_id)
    _print_secret(endpoint, as_json)


@app.command()
def secret(url: UrlOption = None, api_key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Print the secret that signs the webhooks of single jobs and batches."""
    with connected(url, api_key, as_json=as_json) as client:
        found = client.webhooks.default_secret()
    print_json({"secret": found}) if as_json else typer.echo(found)


@app.command("test")
def send_test(
    endpoint_id: EndpointId, url: UrlOption = None, api_key: KeyOption = None, as_json: JsonOption = False
) -> None:
    """Send an endpoint a test event; print the delivery's id."""
    with connected(url, api_key, as_json=as_json) as client:
        delivery = client.webhooks.test(endpoint_id)
    print_json(delivery) if as_json else typer.echo(delivery.id)


@app.command()
def deliveries(
    endpoint_id: EndpointId,
    status: Annotated[str | None, typer.Option(help="pending, delivered, failed")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 20,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what was sent to an endpoint, and what came of it, newest first."""
    with connected(url, api_key, as_json=as_json) as client:
        found = list(islice(client.webhooks.deliveries(endpoint_id, status=status), limit))
    if as_json:
        print_json(found)
        return
    columns = ("id", "status", "type", "about", "tries", "created", "last answer")
    print_table(columns, map(_row, found), "No deliveries.", crop=True)


@app.command()
def redeliver(
    endpoint_id: EndpointId,
    delivery_id: Annotated[str, typer.Argument(metavar="DELIVERY", help="The delivery's id.")],
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send a message again; print the delivery's id."""
    with connected(url, api_key, as_json=as_json) as client:
        delivery = client.webhooks.redeliver(endpoint_id, delivery_id)
    print_json(delivery) if as_json else typer.echo(delivery.id)


app.command()(listen)


def _print_secret(endpoint: WebhookEndpoint, as_json: bool) -> None:
    if as_json:
        print_json(endpoint)
        return
    typer.echo(endpoint.secret)
    typer.echo(f"This is the only time it is shown. The endpoint's id is {endpoint.id}.", err=True)


def _print_endpoints(endpoints: list[WebhookEndpoint]) -> None:
    rows = (
        (each.id, each.status, each.url, each.description, ", ".join(each.events) or each.disabled_reason)
        for each in endpoints
    )
    print_table(("id", "status", "url", "description", "events"), rows, "No endpoints.")


def _row(delivery: Delivery) -> tuple[object, ...]:
    styles = {"delivered": "green", "failed": "red", "pending": "yellow"}
    created = (delivery.created_at or "")[5:19].replace("T", " ")
    answer = " ".join(str(each) for each in (delivery.response_status, delivery.error) if each is not None)
    status = Text(delivery.status, styles.get(delivery.status, ""))
    about = delivery.job_id or delivery.batch_id
    return delivery.id, status, delivery.type, about, delivery.attempts, created, answer
