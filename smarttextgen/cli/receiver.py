"""A small server that receives webhooks and says whether they can be trusted. For work on one's own machine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from smarttextgen.errors import ConfigurationError, WebhookVerificationError
from smarttextgen.types import WebhookEvent
from smarttextgen.verification import verify_webhook

LARGEST_BODY = 64 * 1024 * 1024
READ_TIMEOUT_S = 15.0  # the service waits no longer either

# Called for each delivery, one at a time: with its event, or with why it is not trusted.
Received = Callable[[WebhookEvent | WebhookVerificationError], None]


class Receiver:
    """Listens from its making on, and answers within ``with``: 204 to a good delivery, 400 to any other.

    Deliveries that come before ``secret`` is set wait for it.
    """

    def __init__(self, host: str, port: int, received: Received) -> None:
        """Raises: ConfigurationError when the address cannot be had."""
        self._received = received
        self._one_at_a_time = threading.Lock()
        self._secret = ""  # nosec B105  # not known yet
        self._secret_is_known = threading.Event()
        receiver = self

        class Handler(_Handler):
            receive = receiver.receive

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigurationError(f"Cannot listen on {host} port {port}: {reason}") from error
        self._server.daemon_threads = True
        self.url = f"http://{host}:{self._server.server_address[1]}/"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def trust(self, secret: str) -> None:
        """Check signatures with this secret. Raises: ConfigurationError when it is none."""
        with suppress(WebhookVerificationError):
            verify_webhook(b"", {}, secret)
        self._secret = secret
        self._secret_is_known.set()

    def receive(self, body: bytes, headers: dict[str, str]) -> bool:
        """Whether a delivery is good."""
        self._secret_is_known.wait(READ_TIMEOUT_S)
        try:
            event: WebhookEvent | WebhookVerificationError = verify_webhook(body, headers, self._secret)
        except WebhookVerificationError as error:
            event = error
        with self._one_at_a_time:
            self._received(event)
        return isinstance(event, WebhookEvent)


class _Handler(BaseHTTPRequestHandler):
    receive: Callable[[bytes, dict[str, str]], bool]
    timeout = READ_TIMEOUT_S

    def do_POST(self) -> None:
        try:
            length = int(self.headers.get("Content-Length") or "")
        except ValueError:
            self.send_error(411)
            return
        if not 0 <= length <= LARGEST_BODY:
            self.send_error(413)
            return
        good = self.receive(self.rfile.read(length), dict(self.headers.items()))
        self.send_response(204 if good else 400)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Deliveries are printed, requests are not."""
