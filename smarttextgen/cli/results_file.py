"""What `smarttextgen batch` leaves on disk, so that it can be killed at any moment and goes on where it was.

The results file is the truth about what has come: whole lines, each with the cursor that leads on. The state file beside
it says which batches were made, and is written before the service is asked to make one: the key that it is asked with can
be told again from it, so the service makes none twice.
"""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from smarttextgen.errors import ConfigurationError
from smarttextgen.types import BatchResult

if sys.platform != "win32":
    import fcntl

KEY_LIVES_S = 23 * 3600  # the service remembers an Idempotency-Key for a day


@dataclass
class State:
    """``run`` names this run, ``fingerprint`` what it was to do; a batch has an id once the service has answered."""

    run: str
    fingerprint: str
    batches: list[dict[str, Any]] = field(default_factory=list)

    def key(self, part: int) -> str:
        """The Idempotency-Key of a part."""
        return f"{self.run}-{part}-{self.fingerprint[:32]}"

    def batch_id(self, part: int) -> str | None:
        return self.batches[part]["id"] if part < len(self.batches) else None


class ResultsFile:
    """The file that results are appended to, locked while it is open. ``counts`` are by status, ``cursor`` the last's."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        """Raises: ConfigurationError when the file is another run's, in use, or cannot be written."""
        self.path = path
        self._state_path = path.with_name(path.name + ".state")
        self.counts: Counter[str] = Counter()
        self.cursor: str | None = None
        try:
            self._file = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")  # noqa: SIM115, PTH123  closed below
        except OSError as error:
            raise ConfigurationError(f"{path}: {error.strerror}") from error
        try:
            self._lock()
            self.state = self._load(fingerprint)
            self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def total(self) -> int:
        """Results that are there."""
        return self.counts.total()

    def append(self, results: tuple[BatchResult, ...]) -> None:
        """Write results down for good. Raises: ConfigurationError when they cannot be."""
        try:
            self._file.write("".join(line_of(each) for each in results).encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise ConfigurationError(f"{self.path}: {error.strerror}") from error
        for each in results:
            self._count(each.status, each.cursor)

    def asking(self, part: int) -> None:
        """A batch is about to be asked for. Raises: ConfigurationError when that can no longer be repeated."""
        if part == len(self.state.batches):
            self.state.batches.append({"id": None, "asked_at": time.time()})
            self._save()
        elif time.time() - self.state.batches[part]["asked_at"] > KEY_LIVES_S:
            raise ConfigurationError(
                "A batch was asked for a day ago, and the answer was never seen: whether it was made can no longer be "
                f"told. Look with `smarttextgen batches list`; without {self._state_path} all starts anew"
            )

    def made(self, part: int, batch_id: str) -> None:
        """The service has made it."""
        self.state.batches[part]["id"] = batch_id
        self._save()

    def _lock(self) -> None:
        if sys.platform == "win32":
            return  # two runs at once on one file are the user's to avoid there
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigurationError(f"Another `smarttextgen batch` is writing {self.path}") from None

    def _load(self, fingerprint: str) -> State:
        try:
            state = State(**json.loads(self._state_path.read_text()))
        except FileNotFoundError:
            if self._file.seek(0, os.SEEK_END):
                raise ConfigurationError(
                    f"{self.path} is there already, and {self._state_path.name} is not: it is not a run's to go on with"
                ) from None
            return State(uuid.uuid4().hex, fingerprint)
        except (OSError, ValueError, TypeError) as error:
            raise ConfigurationError(f"{self._state_path} cannot be read: {error}") from error
        if state.fingerprint != fingerprint:
            raise ConfigurationError(
                f"{self.path} was begun with other prompts or options. Give those, or another --out, or remove it and "
                f"{self._state_path.name}"
            )
        return state

    def _save(self) -> None:
        """Whole or not at all, and on the disk before anything is asked for."""
        draft = self._state_path.with_name(self._state_path.name + ".new")
        try:
            with draft.open("w") as file:
                json.dump(asdict(self.state), file, indent=2)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._state_path)
            if os.name == "posix":
                folder = os.open(self._state_path.parent, os.O_RDONLY)
                os.fsync(folder)
                os.close(folder)
        except OSError as error:
            raise ConfigurationError(f"{self._state_path}: {error.strerror}") from error

    def _read(self) -> None:
        """Count what is there; cut off a last line that was not finished."""
        self._file.seek(0)
        whole = 0
        for line in self._file:
            try:
                result = json.loads(line)
                if not line.endswith(b"\n"):
                    break
                self._count(result["status"], result["cursor"])
            except (ValueError, KeyError, TypeError):
                break
            whole += len(line)
        self._file.seek(whole)
        self._file.truncate()

    def _count(self, status: str, cursor: str | None) -> None:
        self.counts[status] += 1
        self.cursor = cursor


def line_of(result: BatchResult) -> str:
    """A result as a line of JSON."""
    return json.dumps(asdict(result), ensure_ascii=False) + "\n"
