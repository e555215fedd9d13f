"""A way to a server on which connections die: each after so many bytes of what comes back."""

from __future__ import annotations

import random
import selectors
import socket
import struct
import threading
from types import TracebackType
from typing import Self


class CuttingProxy:
    """Forwards to ``port``; connections are reset after up to ``most`` bytes while ``cuts`` are left."""

    def __init__(self, port: int, seed: int, cuts: int, most: int) -> None:
        self._port, self._chance, self._most = port, random.Random(seed), most
        self.cuts = cuts
        self._lock = threading.Lock()
        self._closing = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        socket.create_connection(self._listener.getsockname()).close()
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            if self._closing:
                client.close()
                return
            thread = threading.Thread(target=self._serve, args=(client,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with (
            client,
            socket.create_connection(("127.0.0.1", self._port)) as server,
            selectors.DefaultSelector() as ready,
        ):
            ready.register(client, selectors.EVENT_READ, server)
            ready.register(server, selectors.EVENT_READ, client)
            left = self._chance.randrange(self._most) if self._chance.random() < 0.9 else 0
            try:
                self._forward(ready, client, left)
            except OSError:
                return

    def _forward(self, ready: selectors.BaseSelector, client: socket.socket, left: int) -> None:
        while not self._closing:
            for key, _ in ready.select(0.1):
                source, target = key.fileobj, key.data
                assert isinstance(source, socket.socket)
                data = source.recv(65536)
                if not data:
                    return
                if target is client and self.cuts > 0:
                    target.sendall(data[:left])
                    left -= len(data)
                    if left <= 0:
                        with self._lock:
                            self.cuts -= 1
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
                        return
                else:
                    target.sendall(data)
