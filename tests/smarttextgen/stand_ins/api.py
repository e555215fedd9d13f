"""Stands in for `python -m api`: a listening socket as descriptor 3, and the routes that the launcher asks."""

import json
import os
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FOLDER = Path(os.environ["STAND_IN_FOLDER"])


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path in ("/readyz", "/health"):
            workers = len(list(FOLDER.glob("*.ready")))
            couriers = int((FOLDER / "courier").exists())
            self.answer(200, {"status": "ok" if workers else "degraded", "workers": workers, "couriers": couriers})
        else:
            known = self.headers.get("X-API-Key", "") in (FOLDER / "keys").read_text().split()
            self.answer(200 if known else 401, {"data": []})

    def answer(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


def main() -> None:
    assert os.environ["LISTEN_PID"] == str(os.getpid())
    assert os.environ["LISTEN_FDS"] == "1"
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = socket.socket(fileno=3)
    print("stand-in api listens", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    sys.exit(main())
