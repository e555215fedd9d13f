"""What a request may need, put together once by the composition root."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import cast

from flask import current_app

from api.admission import Admission
from api.fleet import FleetView
from api.hints import Hints
from api.identity import KeyMemory
from api.metrics import HttpMetrics
from api.streaming.hub import Hub
from api.submission import Submitter
from api.waiting import WaitingRoom
from shared.keys import KeyStore
from shared.modes import Modes
from shared.settings import Settings
from shared.store.protocol import JobStore
from shared.webhooks import WebhookStore

EXTENSION = "smarttextgen"


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of the API. ``draining`` is set when the process was told to stop."""

    settings: Settings
    store: JobStore
    keys: KeyStore
    key_memory: KeyMemory
    modes: Modes
    fleet: FleetView
    room: WaitingRoom
    admission: Admission
    submitter: Submitter
    hints: Hints
    metrics: HttpMetrics
    streams: Hub
    webhooks: WebhookStore
    draining: threading.Event = field(default_factory=threading.Event)

    def drain(self) -> None:
        """Stop being ready, and answer those who wait; returns when the streams' clients have been told."""
        self.draining.set()
        self.room.drain()
        self.streams.drain()


def services() -> Services:
    """The parts of the app that handles this request."""
    return cast("Services", current_app.extensions[EXTENSION])
