"""A port that tells metrics, for processes that serve no HTTP otherwise."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from shared.errors import ConfigurationError


class MetricsPort:
    """Answers Prometheus in threads of its own, always in the plain text format: in OpenMetrics prometheus_client 0.26 writes
    the ``:`` of vLLM's names as ``_``, and boards made for vLLM would find nothing."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._server: ThreadingHTTPServer | None = None

    def open(self, host: str, port: int) -> None:
        """Port 0 opens none. Raises: ConfigurationError."""
        if not port:
            return
        registry = self._registry

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:  # the library's name
                body = generate_latest(registry)
                self.send_response(200)
                self.send_header("Content-Type", CONTENT_TYPE_PLAIN_0_0_4)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """A scrape is no news."""

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            raise ConfigurationError(f"METRICS_HOST and METRICS_PORT: {error.strerror}.") from error
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    def close(self) -> None:
        """Again: nothing more."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
