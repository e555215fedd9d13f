"""``python -m worker.health``: whether the worker of this host (in a container: of this container) is alive and loaded.

For health checks, which run beside the worker. It asks the store, as everybody does: a worker has a lease from when its
model is loaded and warm, and renews it only while its engine steps or idles.
"""

from __future__ import annotations

import socket
import sys

from shared.errors import SmartTextGenError
from shared.settings import load_settings
from shared.store.connection import connect, key_prefix
from shared.store.redis import RedisStore
from shared.store.retention import Retention


def main() -> int:
    """0: it has a lease (a draining one, too). 1 with a sentence: it has none, a setting is wrong, or Redis is away."""
    host = socket.gethostname()
    try:
        settings = load_settings()
        fleet = RedisStore(connect(settings), key_prefix(settings), Retention.of(settings)).fleet()
    except SmartTextGenError as error:
        print(error.message, file=sys.stderr)
        return 1
    mine = [f"{worker.id} {worker.state}" for worker in fleet.workers if worker.host == host]
    print(", ".join(mine) or f"No worker on {host} has a lease.")
    return 0 if mine else 1


if __name__ == "__main__":
    raise SystemExit(main())
