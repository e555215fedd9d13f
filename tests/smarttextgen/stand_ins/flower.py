"""Stands in for Flower: answers /healthcheck on its --port."""

import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"OK")

    def log_message(self, *args: object) -> None:
        pass


if __name__ == "__main__":
    assert ":" in os.environ["FLOWER_BASIC_AUTH"]
    assert os.environ["CELERY_BROKER_URL"].startswith("redis://")
    port = next(int(word.removeprefix("--port=")) for word in sys.argv if word.startswith("--port="))
    HTTPServer(("127.0.0.1", port), Handler).serve_forever()
