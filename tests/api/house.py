"""A whole API over stores in memory, with the worker's hand played by the test."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from api.app import create_app
from api.documents import DocumentedApp
from api.fleet import FleetView
from api.hints import RecordedHints
from api.waiting import WaitingRoom
from shared.job import Choice, JobRef, JobStatus, Outcome, Usage
from shared.keys import MemoryKeyStore, NewKey
from shared.modes import load_modes
from shared.settings import Settings, load_settings
from shared.store.memory import MemoryStore
from shared.store.protocol import ModelInfo, WorkerInfo
from shared.store.retention import Retention


@dataclass
class House:
    """The app, its parts, and keys: of the tenant shop, of a rival, and of an administrator."""

    app: DocumentedApp
    settings: Settings
    store: MemoryStore
    keys: MemoryKeyStore
    hints: RecordedHints
    room: WaitingRoom
    fleet: FleetView
    shop: str
    rival: str
    admin: str

    @property
    def client(self) -> FlaskClient:
        return self.app.test_client()

    def call(self, method: str, path: str, *, key: str | None = "shop", **more: Any) -> TestResponse:
        """A request with the key of a role (``shop``, ``rival``, ``admin``), or with none."""
        headers = dict(more.pop("headers", {}))
        if key:
            headers.setdefault("X-API-Key", getattr(self, key))
        return self.client.open(path, method=method, headers=headers, **more)

    def submit(self, prompt: str = "hello", **options: Any) -> str:
        response = self.call("POST", "/api/generate", json={"prompt": prompt, **options})
        assert response.status_code == 202, response.text
        return str(response.json["id"])

    def run(self, job_id: str, output: str = "world", *, tenant: str = "shop") -> JobRef:
        """Claim and finish, as a worker does."""
        ref = self.claim(job_id, tenant=tenant)
        outcome = Outcome(JobStatus.SUCCEEDED, (Choice(0, output, "stop"),), Usage(3, 5))
        assert self.store.finish(ref, "w1", 1, outcome) == "accepted"
        return ref

    def claim(self, job_id: str, *, tenant: str = "shop") -> JobRef:
        ref = JobRef(tenant, job_id)
        assert self.store.claim(ref, "w1", "token") is not None
        return ref

    def announce(self, **more: Any) -> None:
        """A worker is there with a model."""
        model = ModelInfo(
            **{"name": "demo", "revision": "r1", "engine": "echo", "device": "cpu", "dtype": "float32",
               "context_length": 1024, **more}
        )  # fmt: skip
        self.store.beat(WorkerInfo(f"w-{model.name}", model, 4), ())
        self.fleet.refresh()

    def written(self) -> Any:
        """Everything that is kept, to compare: refused requests leave no trace."""
        return copy.deepcopy((self.store._state, self.keys._keys, self.hints.sent))


def build(**overrides: Any) -> House:
    settings = load_settings(**{"model_name": "demo", "max_wait_s": 5, **overrides})
    keys = MemoryKeyStore()
    room = WaitingRoom(settings.api_max_waiters)
    store = MemoryStore(Retention.of(settings), key_exists=keys.exists, on_ended=room.tell)
    fleet = FleetView(store, settings.public_model_name)
    hints = RecordedHints()
    modes = load_modes(settings.modes_file)
    app = create_app(settings, store=store, key_store=keys, hints=hints, modes=modes, room=room, fleet=fleet)
    secrets = {
        "shop": keys.create(NewKey("shop"))[1],
        "rival": keys.create(NewKey("rival"))[1],
        "admin": keys.create(NewKey("ops", scopes=frozenset({"admin"})))[1],
    }
    return House(app, settings, store, keys, hints, room, fleet, **secrets)


def error_of(response: TestResponse) -> dict[str, Any]:
    """The error of a response, whose body must be an error's and nothing more."""
    assert response.mimetype == "application/json", response.text
    body = response.json
    assert set(body) == {"error"}, body
    assert set(body["error"]) == {"message", "type", "param", "code"}, body
    assert "Traceback" not in response.text
    assert response.headers["X-Request-Id"]
    return dict(body["error"])
