"""The keys of a stack: made once by ``python -m shared.keys``, kept in the data directory, checked at each start."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from smarttextgen.launcher.data_dir import write_private_json
from smarttextgen.launcher.errors import KeyBootstrapError
from smarttextgen.launcher.health import Probes

TENANT = "default"
CREATE_TIMEOUT_S = 60.0
CHECK_INTERVAL_S = 0.2


@dataclass(frozen=True)
class StackKeys:
    """``api_key`` may generate; ``admin_key`` may also administer."""

    api_key: str
    admin_key: str


@dataclass(frozen=True)
class KeyBootstrap:
    """Everything that getting the keys takes. ``ensure`` blocks, so it runs in a thread."""

    keys_file: Path
    program: tuple[str, ...]
    env: Mapping[str, str]
    api_url: str
    probes: Probes
    api_is_ready: Callable[[], bool]
    stopping: Callable[[], bool]

    def ensure(self) -> StackKeys:
        """Return keys that work: those on file, else new ones, which are then on file.

        Raises: KeyBootstrapError.
        """
        kept = load(self.keys_file)
        if kept is not None and self._still_work(kept):
            return kept
        with ThreadPoolExecutor(max_workers=2) as pool:
            api_key = pool.submit(self._create, "launcher", "generate")
            admin_key = pool.submit(self._create, "launcher-admin", "admin,generate")
            keys = StackKeys(api_key.result(), admin_key.result())
        write_private_json(self.keys_file, asdict(keys))
        return keys

    def _still_work(self, keys: StackKeys) -> bool:
        """Whether the API takes both; it has to be up to say so."""
        while not self.stopping():
            if self.api_is_ready():
                general = self.probes.accepts_key(f"{self.api_url}/api/jobs?limit=1", keys.api_key)
                admin = self.probes.accepts_key(f"{self.api_url}/api/admin/keys", keys.admin_key)
                if general is not None and admin is not None:
                    return general and admin
            time.sleep(CHECK_INTERVAL_S)
        raise KeyBootstrapError("The stack was stopped before its keys could be checked.")

    def _create(self, name: str, scopes: str) -> str:
        argv = [*self.program, "create", "--tenant", TENANT, "--name", name, "--scopes", scopes, "--json"]
        try:
            done = subprocess.run(
                argv,
                env={**os.environ, **self.env},
                capture_output=True,
                text=True,
                check=False,
                timeout=CREATE_TIMEOUT_S,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise KeyBootstrapError(f"The API key {name} could not be made: {error}") from error
        try:
            return str(json.loads(done.stdout)["key"])
        except (ValueError, KeyError, TypeError):
            reason = (done.stderr or done.stdout).strip().splitlines()[-3:] or [f"exit code {done.returncode}"]
            raise KeyBootstrapError(f"The API key {name} could not be made: {' '.join(reason)}") from None


def load(path: Path) -> StackKeys | None:
    """The keys on file, or None."""
    try:
        content = json.loads(path.read_text())
        return StackKeys(str(content["api_key"]), str(content["admin_key"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
