"""Which service the command line talks to: options, then the environment, then the stack that runs on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from smarttextgen.cli.exits import told
from smarttextgen.client import Client
from smarttextgen.launcher.data_dir import DataDir, default_data_dir, read_ready_file

UrlOption = Annotated[
    str | None,
    typer.Option("--url", envvar="SMARTTEXTGEN_URL", help="The service. Default: the one `smarttextgen up` started."),
]
KeyOption = Annotated[
    str | None,
    typer.Option("--api-key", envvar="SMARTTEXTGEN_API_KEY", help="API key. Default: the running stack's own."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document, for programs.")]
DataDirOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="SMARTTEXTGEN_DATA_DIR",
        help="Where the stack keeps its data, keys and logs.",
        file_okay=False,
    ),
]


def data_dir(chosen: Path | None = None) -> DataDir:
    """The data directory: the one given, else SMARTTEXTGEN_DATA_DIR, else the user's."""
    named = os.environ.get("SMARTTEXTGEN_DATA_DIR")
    return DataDir(chosen or (Path(named) if named else default_data_dir()))


def resolve(url: str | None, api_key: str | None, *, admin: bool = False) -> tuple[str | None, str | None]:
    """Return URL and key, filled in from the running stack's ready file where they are its own or not given."""
    ready = read_ready_file(data_dir().ready_file)
    if ready is None or (url is not None and url.rstrip("/") != ready["url"]):
        return url, api_key
    return ready["url"], api_key or ready.get("admin_key" if admin else "api_key")


@contextmanager
def connected(
    url: str | None, api_key: str | None, *, as_json: bool = False, admin: bool = False, interrupted: str = ""
) -> Iterator[Client]:
    """A client for one command; errors become sentences and exit codes (see ``told``)."""
    with told(as_json, interrupted), Client(*resolve(url, api_key, admin=admin)) as client:
        yield client
