"""The API under gunicorn, a worker with the echo engine, and a courier, as processes."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from shared.keys import NewKey, RedisKeyStore
from shared.store.connection import key_prefix
from tests.api.live import LiveApi
from tests.servers import Process, until

TOKEN_S = "0.01"
MODES = ("general", "recommendation", "support", "ecommerce")
_LANGUAGE = """
[{mode}.{language}]
system = "({mode})"
template = "{{input}} {{system}} {{history}}"
turn = "{{input}} {{output}} "
"""


def echoing_modes(folder: Path) -> str:
    """A file of modes whose prompts begin with what the person wrote, and that stop nowhere: so the echo engine says just that
    again, for as long as it is asked to."""
    text = ""
    for mode in MODES:
        text += f'[{mode}]\ndescription = "Says {mode} again."\n'
        text += "".join(_LANGUAGE.format(mode=mode, language=language) for language in ("en", "zh-Hant"))
    path = folder / "modes.toml"
    path.write_text(text)
    return str(path)


class Stack:
    """All that the console needs, on one Redis. ``key`` may everything."""

    def __init__(self, redis_url: str, folder: Path, **env: str) -> None:
        env = {"MODES_FILE": echoing_modes(folder), "API_KEY_CACHE_S": "0.5", "WEBHOOK_ALLOWLIST": "127.0.0.1"} | env
        self.api = LiveApi(redis_url, f"t{secrets.token_hex(4)}", folder, **env)
        self.worker_env = self.api.env | {
            "ECHO_TOKEN_DELAY_S": TOKEN_S, "ENGINE_SLOTS": "2", "WORKER_BEAT_S": "0.2", "WORKER_LEASE_S": "2", "RECONCILE_S": "0.2",
        } | env  # fmt: skip
        self.folder = folder
        self._processes: list[Process] = []

    def __enter__(self) -> Self:
        for module in ("worker", "worker.courier"):
            log = self.folder / f"{module}.log"
            self._processes.append(Process([sys.executable, "-m", module], log, self.worker_env))
        try:
            self.api.__enter__()
            until(self._ready, 60, what="a ready worker")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.kill()
        self.api.__exit__(kind, error, trace)

    def _ready(self) -> bool:
        for process in self._processes:
            assert process.process.poll() is None, process.output()
        return bool(self.api.store.fleet().workers)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.api.port}"

    @property
    def key(self) -> str:
        return self.api.key

    def new_key(self, tenant: str, *scopes: str) -> str:
        """The secret of a new key."""
        keys = RedisKeyStore(self.api.redis, key_prefix(self.api.settings))
        return keys.create(NewKey(tenant, scopes=frozenset(scopes)))[1]
