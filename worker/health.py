"""``python -m worker.health [worker | courier]``: whether the one of this host (in a container: of this container) is alive.

For health checks, which run beside the process. They ask the store, as everybody does: a worker has a lease from when its
model is loaded and warm, and renews it only while its engine steps or idles; a courier is listed while it looks for work.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType

from shared.errors import SmartTextGenError
from shared.settings import Settings, load_settings
from shared.store.connection import connect, key_prefix
from shared.store.redis import RedisStore
from shared.store.retention import Retention
from shared.webhooks.redis import Limits, RedisWebhookStore


def workers_on(host: str, settings: Settings) -> list[str]:
    """Names and states of the workers with a lease. Raises: StoreUnavailableError."""
    fleet = RedisStore(connect(settings), key_prefix(settings), Retention.of(settings)).fleet()
    return [f"{worker.id} {worker.state}" for worker in fleet.workers if worker.host == host]


def couriers_on(host: str, settings: Settings) -> list[str]:
    """Names of the couriers. Raises: StoreUnavailableError."""
    store = RedisWebhookStore(connect(settings), key_prefix(settings), Limits.of(settings))
    return [name for name in store.couriers() if name.rsplit("-", 2)[0] == host]


KINDS: Mapping[str, Callable[[str, Settings], list[str]]] = MappingProxyType(
    {"worker": workers_on, "courier": couriers_on}
)


def main(argv: list[str] | None = None) -> int:
    """0: there is one (a draining worker counts). 1 with a sentence: there is none, a setting is wrong, or Redis is away."""
    (kind,) = (sys.argv[1:] if argv is None else argv) or ["worker"]
    host = socket.gethostname()
    try:
        found = KINDS[kind](host, load_settings())
    except SmartTextGenError as error:
        print(error.message, file=sys.stderr)
        return 1
    print(", ".join(found) or f"No live {kind} on {host}.")
    return 0 if found else 1


if __name__ == "__main__":
    raise SystemExit(main())
