"""A whole API over stores in memory, with the worker's hand played by the test."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from fakeredis import FakeAsyncRedis
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from api.app import create_app, hub_of
from api.documents import DocumentedApp
from api.fleet import FleetView
from api.hints import RecordedHints
from api.streaming.hub import Hub
from api.waiting import WaitingRoom
from shared.job import Choice, Job, JobRef, JobSpec, JobStatus, Outcome, Usage
from shared.keys import NewKey, RedisKeyStore
from shared.modes import load_modes
from shared.settings import Settings, load_settings
from shared.store.batches import BatchReceipt, NewBatch
from shared.store.events import Said
from shared.store.memory import MemoryStore
from shared.store.protocol import Finished, Hint, ModelInfo, Receipt, Submission, WorkerInfo
from shared.store.retention import Retention
from shared.webhooks.memory import MemoryWebhookStore
from shared.webhooks.redis import Limits


class WatchedStore(MemoryStore):
    """The store in memory, which keeps what was taken in, and tells the room of ends as the listener does."""

    def __init__(self, retention: Retention, room: WaitingRoom) -> None:
        super().__init__(retention)
        self._room = room
        self.submitted: list[tuple[JobRef, JobSpec]] = []

    def submit(self, submission: Submission) -> Receipt:
        receipt = super().submit(submission)
        if receipt.created:
            self.submitted += [(JobRef(submission.tenant, job.id), job.spec) for job in submission.jobs]
        return receipt

    def submit_batch(self, submission: Submission, batch: NewBatch) -> BatchReceipt:
        receipt = super().submit_batch(submission, batch)
        if receipt.created:
            self.submitted += [(JobRef(submission.tenant, job.id), job.spec) for job in submission.jobs]
        return receipt

    def finish(
        self, ref: JobRef, worker: str, attempt: int, outcome: Outcome, said: Said | None = None
    ) -> tuple[Finished, tuple[Hint, ...]]:
        batch_id = self.get(ref).batch_id
        answer = super().finish(ref, worker, attempt, outcome, said)
        self._room.tell(ref)
        if batch_id and self.get_batch(ref.tenant, batch_id).done:
            self._room.tell(JobRef(ref.tenant, batch_id))
        return answer

    def cancel(self, ref: JobRef) -> Job:
        job = super().cancel(ref)
        self._room.tell(ref)
        return job

    def delete(self, ref: JobRef) -> None:
        super().delete(ref)
        self._room.tell(ref)


@dataclass
class House:
    """The app, its parts, and keys: of the tenant shop, of a rival, and of an administrator."""

    app: DocumentedApp
    settings: Settings
    store: WatchedStore
    keys: RedisKeyStore
    hints: RecordedHints
    room: WaitingRoom
    fleet: FleetView
    webhooks: MemoryWebhookStore
    hub: Hub
    shop: str
    rival: str
    admin: str
    model = ModelInfo("demo", "r1", "echo", "cpu", "float32", 1024)

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
        return self.end(job_id, Outcome(JobStatus.SUCCEEDED, (Choice(0, output, "stop"),), Usage(3, 5)), tenant=tenant)

    def end(self, job_id: str, outcome: Outcome, *, tenant: str = "shop") -> JobRef:
        """Claim and finish with this outcome."""
        ref = self.claim(job_id, tenant=tenant)
        assert self.store.finish(ref, "w1", self.store.get(ref).attempt, outcome)[0] == "accepted"
        return ref

    def claim(self, job_id: str, *, tenant: str = "shop") -> JobRef:
        ref = JobRef(tenant, job_id)
        # A draining worker has a lease, so it may claim; it has no slots, so nothing else changes.
        self.store.beat(WorkerInfo("w1", self.model, 4, "draining"), ())
        assert self.store.claim(ref, "w1", "token") is not None
        return ref

    def announce(self, **more: Any) -> None:
        """A worker is there with a model."""
        model = replace(self.model, **more)
        self.store.beat(WorkerInfo(f"w-{model.name}", model, 4), ())
        self.fleet.refresh()

    def written(self) -> Any:
        """Everything that is kept, to compare: refused requests leave no trace."""
        client = self.store.client
        return {key: client.dump(key) for key in client.scan_iter()}, list(self.hints.sent)


def build(**overrides: Any) -> House:
    settings = load_settings(**{"model_name": "demo", "max_wait_s": 5, **overrides})
    room = WaitingRoom(settings.api_max_waiters)
    store = WatchedStore(Retention.of(settings), room)
    keys = RedisKeyStore(store.client, store.prefix)
    fleet = FleetView(store, settings.public_model_name)
    hints = RecordedHints()
    webhooks = MemoryWebhookStore(store, Limits.of(settings))
    modes = load_modes(settings.modes_file)
    hub = hub_of(settings, store, lambda: FakeAsyncRedis(server=store.server, decode_responses=True), store.prefix)
    app = create_app(
        settings,
        store=store,
        key_store=keys,
        hints=hints,
        modes=modes,
        room=room,
        fleet=fleet,
        webhooks=webhooks,
        hub=hub,
    )
    secrets = {
        "shop": keys.create(NewKey("shop"))[1],
        "rival": keys.create(NewKey("rival"))[1],
        "admin": keys.create(NewKey("ops", scopes=frozenset({"admin"})))[1],
    }
    return House(app, settings, store, keys, hints, room, fleet, webhooks, hub, **secrets)


def error_of(response: TestResponse) -> dict[str, Any]:
    """The error of a response, whose body must be an error's and nothing more."""
    assert response.mimetype == "application/json", response.text
    body = response.json
    assert set(body) == {"error"}, body
    assert set(body["error"]) == {"message", "type", "param", "code"}, body
    assert "Traceback" not in response.text
    assert response.headers["X-Request-Id"]
    return dict(body["error"])
