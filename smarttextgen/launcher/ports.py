"""Ports: the API's is held from the start, the others are picked free."""

from __future__ import annotations

import socket

from smarttextgen.launcher.errors import PortTakenError

PREFERRED_API_PORT = 8000
BACKLOG = 1024


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on ``host:port``. With port 0: 8000 where it is free, else any free one.

    The socket is not handed to child processes unless asked for.

    Raises: PortTakenError when ``port`` was asked for and cannot be had.
    """
    for candidate in (port,) if port else (PREFERRED_API_PORT, 0):
        try:
            return _listen(host, candidate)
        except OSError as error:
            reason = error
    raise PortTakenError(f"Port {port} on {host} cannot be used: {reason.strerror}. Use --port 0 for a free one.")


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else a port is lost for a minute after use
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that was free a moment ago. Who uses it must cope with losing it (the launcher picks another)."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


class PickedPort:
    """A free port for a part that binds it itself: another at each start, until the part was once ready on one."""

    def __init__(self) -> None:
        self.number = 0
        self._settled = False

    def pick(self) -> int:
        """The port for the start that comes now."""
        if not self._settled:
            self.number = free_port()
        return self.number

    def settle(self, ready: bool) -> bool:
        """Keep the port if the part is ready on it; returns ``ready``."""
        self._settled = self._settled or ready
        return ready
