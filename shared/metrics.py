"""A port that tells metrics, for processes that serve no HTTP otherwise."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, start_http_server

from shared.errors import ConfigurationError


class MetricsPort:
    """Answers Prometheus in threads of its own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._server: Any = None

    def open(self, host: str, port: int) -> None:
        """Port 0 opens none. Raises: ConfigurationError."""
        if not port:
            return
        try:
            self._server, _ = start_http_server(port, host, self._registry)
        except OSError as error:
            raise ConfigurationError(f"METRICS_HOST and METRICS_PORT: {error.strerror}.") from error

    def close(self) -> None:
        """Again: nothing more."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
