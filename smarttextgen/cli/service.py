"""Commands about the service: history, modes, models, health."""

from __future__ import annotations

from typing import Annotated

import typer

from smarttextgen.cli.connection import JsonOption, KeyOption, UrlOption, connected
from smarttextgen.cli.output import echo, plain, print_json, print_table, shown


def history(
    user_id: Annotated[str, typer.Argument(metavar="USER_ID", help="Whose conversation.")],
    delete: Annotated[bool, typer.Option("--delete", help="Forget it.")] = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show (or forget) the conversation that later prompts of a user see."""
    with connected(url, api_key, as_json=as_json) as client:
        if delete:
            client.delete_history(user_id)
            return
        turns = client.history(user_id)
    if as_json:
        print_json(turns)
        return
    for turn in turns:
        typer.secho(f"> {shown(turn.input)}", bold=True)
        echo(turn.output)
    if not turns:
        typer.echo("No conversation.")


def modes(url: UrlOption = None, api_key: KeyOption = None, as_json: JsonOption = False) -> None:
    """List the modes that prompts can be answered in."""
    with connected(url, api_key, as_json=as_json) as client:
        found = client.modes()
    print_json(found) if as_json else print_table(
        ("mode", "description"), ((mode.name, mode.description) for mode in found), "No modes."
    )


def models(url: UrlOption = None, api_key: KeyOption = None, as_json: JsonOption = False) -> None:
    """List the models that the service runs."""
    with connected(url, api_key, as_json=as_json) as client:
        found = client.models()
    print_json(found) if as_json else print_table(
        ("model", "status", "workers", "context", "adapters"),
        ((model.name, model.status, model.workers, model.context_length, ", ".join(model.adapters)) for model in found),
        "No models.",
    )


def health(url: UrlOption = None, api_key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Show what the service says of itself."""
    with connected(url, api_key, as_json=as_json) as client:
        found = client.health()
    if as_json:
        print_json(found)
        return
    facts = plain(found)
    assert isinstance(facts, dict)
    print_table(("", ""), ((name, value) for name, value in facts.items() if value is not None), "")
