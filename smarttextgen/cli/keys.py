"""Commands for API keys; they need a key with the scope admin, except a first key made through Redis."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Annotated

import typer

from smarttextgen.cli.connection import JsonOption, KeyOption, UrlOption, connected
from smarttextgen.cli.exits import told
from smarttextgen.cli.output import print_json, print_table
from smarttextgen.decode import decode
from smarttextgen.errors import ConfigurationError
from smarttextgen.launcher.programs import module, python_environment
from smarttextgen.types import ApiKey

app = typer.Typer(no_args_is_help=True, help="API keys (for holders of an admin key).")
KeyId = Annotated[str, typer.Argument(metavar="ID", help="The key's id (not the key).")]


@app.command()
def create(
    tenant: Annotated[str, typer.Option(help="Whose jobs the key sees.")],
    name: Annotated[str, typer.Option(help="What the key is for.")],
    scopes: Annotated[str, typer.Option(help="Comma-separated: generate, admin, …")] = "generate",
    weight: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Share of the workers beside other tenants.")
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option("--requests-per-minute", help="Limit.")] = None,
    tokens_per_day: Annotated[int | None, typer.Option("--tokens-per-day", help="Limit.")] = None,
    max_queued: Annotated[int | None, typer.Option("--max-queued", help="Most jobs waiting.")] = None,
    redis_url: Annotated[
        str | None, typer.Option("--redis-url", help="Make the key in this Redis, without the API: for the first one.")
    ] = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key; it is shown this once."""
    limits = (weight, requests_per_minute, tokens_per_day, max_queued)
    if redis_url is not None:
        if any(limit is not None for limit in limits):
            raise typer.BadParameter(
                "limits need the API: make an admin key first, then use it", param_hint="--redis-url"
            )
        with told(as_json):
            key = _create_in_redis(redis_url, tenant, name, scopes)
    else:
        with connected(url, api_key, as_json=as_json, admin=True) as client:
            key = client.keys.create(
                tenant,
                name,
                scopes=[scope.strip() for scope in scopes.split(",") if scope.strip()],
                weight=weight,
                requests_per_minute=requests_per_minute,
                tokens_per_day=tokens_per_day,
                max_queued=max_queued,
            )
    _print_key(key, as_json)


@app.command("list")
def list_(url: UrlOption = None, api_key: KeyOption = None, as_json: JsonOption = False) -> None:
    """List the keys, without the keys themselves."""
    with connected(url, api_key, as_json=as_json, admin=True) as client:
        keys = client.keys.list()
    if as_json:
        print_json(keys)
        return
    rows = ((key.id, key.tenant, key.name, ",".join(key.scopes), (key.created_at or "")[:10]) for key in keys)
    print_table(("id", "tenant", "name", "scopes", "created"), rows, "No keys.")


@app.command()
def revoke(key_id: KeyId, url: UrlOption = None, api_key: KeyOption = None, as_json: JsonOption = False) -> None:
    """End a key at once."""
    with connected(url, api_key, as_json=as_json, admin=True) as client:
        client.keys.revoke(key_id)
    print_json({"id": key_id, "revoked": True}) if as_json else typer.echo(f"{key_id} is revoked.")


@app.command()
def rotate(key_id: KeyId, url: UrlOption = None, api_key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Give a key another secret; it is shown this once."""
    with connected(url, api_key, as_json=as_json, admin=True) as client:
        key = client.keys.rotate(key_id)
    _print_key(key, as_json)


def _print_key(key: ApiKey, as_json: bool) -> None:
    if as_json:
        print_json(key)
        return
    typer.echo(key.key)
    typer.echo(f"This is the only time it is shown. Its id is {key.id}.", err=True)


def _create_in_redis(redis_url: str, tenant: str, name: str, scopes: str) -> ApiKey:
    """Run the platform's own key maker. Raises: ConfigurationError with its sentence."""
    argv = [*module("shared.keys"), "create", "--tenant", tenant, "--name", name, "--scopes", scopes, "--json"]
    env = {**os.environ, **python_environment(), "REDIS_URL": redis_url}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ConfigurationError(f"The key could not be made: {last}")
    return decode(ApiKey, json.loads(done.stdout))
