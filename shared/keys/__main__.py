"""Makes a key by writing to Redis: for the first one, when there is no admin key yet that could ask the API.

REDIS_URL=… python -m shared.keys create --tenant shop --name backend --scopes generate,admin --json
"""

from __future__ import annotations

import argparse
import json
import re
import sys

from shared.errors import SmartTextGenError
from shared.keys import SCOPES, NewKey, RedisKeyStore
from shared.settings import load_settings
from shared.store.connection import connect, key_prefix


def _tenant(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9_-]{1,64}", text):
        raise argparse.ArgumentTypeError("1 to 64 of a-z, 0-9, _ and -")
    return text


def _scopes(text: str) -> frozenset[str]:
    scopes = frozenset(part.strip() for part in text.split(",") if part.strip())
    if not scopes or not scopes <= set(SCOPES):
        raise argparse.ArgumentTypeError(f"some of {', '.join(SCOPES)}, comma-separated")
    return scopes


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m shared.keys", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    create = parser.add_subparsers(dest="command", required=True).add_parser("create", help="make a key")
    create.add_argument("--tenant", type=_tenant, required=True)
    create.add_argument("--name", default="")
    create.add_argument("--scopes", type=_scopes, default=frozenset({"generate"}))
    create.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Make the key and print it, this once. Exit code 1 with a sentence where Redis is away."""
    arguments = _arguments(argv)
    try:
        settings = load_settings()
        store = RedisKeyStore(connect(settings), key_prefix(settings))
        key, secret = store.create(NewKey(arguments.tenant, arguments.name, arguments.scopes))
    except SmartTextGenError as error:
        print(error.message, file=sys.stderr)
        return 1
    if arguments.json:
        public = {"id": key.id, "tenant": key.tenant, "name": key.name, "scopes": sorted(key.scopes), "key": secret}
        print(json.dumps(public))
    else:
        print(f"{secret}\n\nThis is the only time it is shown. Key {key.id}, tenant {key.tenant}.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
