"""What the API knows of workers and models: one thread asks the store every two seconds, requests read its last answer."""

from __future__ import annotations

import threading
import time

import structlog

from shared.errors import SmartTextGenError, UnknownModelError
from shared.store.protocol import Fleet, JobStore, ModelInfo

log = structlog.get_logger(__name__)

INTERVAL_S = 2.0
UNKNOWN_RETRY_S = 0.5
"""A model nobody knows makes one look again, but no client can make every request look."""

_EMPTY = Fleet((), {}, {})


class FleetView:
    """The last known fleet. ``default_model`` may be named before any worker has announced it. Thread-safe."""

    def __init__(self, store: JobStore, default_model: str) -> None:
        self._store = store
        self._default = default_model
        self._stopped = threading.Event()
        self._fleet = _EMPTY
        self._asked_at = float("-inf")

    @property
    def current(self) -> Fleet:
        """The last answer; empty before the first."""
        return self._fleet

    @property
    def default_model(self) -> str:
        return self._default

    def start(self) -> None:
        threading.Thread(target=self._run, name="fleet", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def refresh(self) -> Fleet:
        """Ask now. Raises: StoreUnavailableError."""
        self._asked_at = time.monotonic()
        self._fleet = self._store.fleet()
        return self._fleet

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self.refresh()
            except SmartTextGenError as error:
                log.warning("fleet unknown", code=error.code)
            self._stopped.wait(INTERVAL_S)

    def names(self) -> list[str]:
        """Models that may be named, the default one first."""
        return [self._default, *sorted(set(self._fleet.models) - {self._default})]

    def adapters(self) -> list[str] | None:
        """Adapters that may be named, of any model; None before the default model was announced: then its worker decides."""
        if self._default not in self._fleet.models:
            return None
        return sorted({adapter for model in self._fleet.models.values() for adapter in model.adapters})

    def model(self, name: str) -> ModelInfo | None:
        """A model's announcement; None for the default one before it was announced. Raises: UnknownModelError."""
        known = name in self._fleet.models or name == self._default
        if not known and time.monotonic() - self._asked_at > UNKNOWN_RETRY_S:
            self.refresh()
            known = name in self._fleet.models
        if not known:
            raise UnknownModelError("No such model; see GET /api/models.", param="model")
        return self._fleet.models.get(name)
