"""Webhooks through the real service: Redis, gunicorn, a worker with the echo engine, the courier."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator

import pytest

from smarttextgen import Client, InvalidRequestError, WebhookEvent, WebhookVerificationError
from smarttextgen.cli.receiver import Receiver
from tests.servers import until
from tests.smarttextgen.live_stack import LiveStack, live_stack
from tests.smarttextgen.processes import Listening


@pytest.fixture(scope="module")
def stack(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveStack]:
    folder = tmp_path_factory.mktemp("stack")
    with live_stack(redis_url, "sdkhooks", folder, WEBHOOK_ALLOWLIST="127.0.0.0/8", WEBHOOK_RETRY_S="0.2,0.2") as made:
        made.start_worker()
        made.start("worker.courier")
        yield made


@pytest.fixture
def client(stack: LiveStack) -> Iterator[Client]:
    with Client(stack.url, stack.key) as made:
        yield made


class Inbox:
    """A receiver in this process. ``take`` the next delivery."""

    def __init__(self) -> None:
        self._deliveries: queue.Queue[WebhookEvent | WebhookVerificationError] = queue.Queue()
        self.receiver = Receiver("127.0.0.1", 0, self._deliveries.put)
        self.url = self.receiver.url

    def take(self) -> WebhookEvent:
        found = self._deliveries.get(timeout=20)
        assert isinstance(found, WebhookEvent), found
        return found

    def take_refused(self) -> WebhookVerificationError:
        found = self._deliveries.get(timeout=20)
        assert isinstance(found, WebhookVerificationError), found
        return found


@pytest.fixture
def inbox(client: Client) -> Iterator[Inbox]:
    made = Inbox()
    with made.receiver:
        made.receiver.trust(client.webhooks.default_secret())
        yield made


def test_a_jobs_own_webhook(client: Client, inbox: Inbox) -> None:
    job = client.submit("我的包裹 🧦", webhook=inbox.url)
    event = inbox.take()
    assert event.type == "job.succeeded"
    assert event.job is not None
    assert (event.job.id, event.job.output) == (job.id, client.wait(job.id, 10).output)
    until(lambda: client.get(job.id).webhook_status == "delivered", 20)
    (delivery,) = [each for each in client.webhooks.deliveries("default") if each.job_id == job.id]
    assert (delivery.status, delivery.message_id, delivery.response_status) == ("delivered", event.id, 204)
    client.webhooks.redeliver("default", delivery.id)
    assert inbox.take().id == event.id


def test_a_batchs_webhook(client: Client, inbox: Inbox) -> None:
    batch = client.batches.create(["a", "b", "c"], webhook=inbox.url)
    event = inbox.take()
    assert (event.type, event.job) == ("batch.completed", None)
    assert event.batch is not None
    assert (event.batch.id, event.batch.counts["succeeded"]) == (batch.id, 3)


def test_an_endpoint_and_its_secrets(client: Client, inbox: Inbox) -> None:
    endpoint = client.webhooks.create(inbox.url, events=["job.failed"], description="sdk")
    assert endpoint.secret is not None
    assert [each.id for each in client.webhooks.list()] == [endpoint.id]
    client.webhooks.test(endpoint.id)
    inbox.take_refused()  # it knows the default secret alone
    inbox.receiver.trust(endpoint.secret)
    assert inbox.take().type == "webhook.test"  # tried again
    new = client.webhooks.rotate_secret(endpoint.id).secret
    assert new not in (None, endpoint.secret)
    for secret in (endpoint.secret, new):
        assert secret is not None
        inbox.receiver.trust(secret)
        client.webhooks.test(endpoint.id)
        assert inbox.take().type == "webhook.test"
    assert client.webhooks.update(endpoint.id, status="disabled").status == "disabled"
    assert client.webhooks.update(endpoint.id, events=["job.succeeded"], status="enabled").events == ("job.succeeded",)
    client.submit("hello")
    assert inbox.take().type == "job.succeeded"
    assert len(list(client.webhooks.deliveries(endpoint.id))) == 4
    client.webhooks.delete(endpoint.id)
    assert endpoint.id not in {each.id for each in client.webhooks.list()}


def test_what_is_refused(client: Client) -> None:
    with pytest.raises(InvalidRequestError):
        client.webhooks.create("http://10.0.0.1/")
    with pytest.raises(InvalidRequestError):
        client.submit("hello", webhook="http://169.254.169.254/latest")


def test_the_command_registers_and_leaves_nothing_behind(stack: LiveStack, client: Client) -> None:
    listening = Listening(stack.url, stack.key, "--register", "--json", "--count", "2")
    jobs = {client.submit(f"hello {number}").id for number in range(2)}
    code, lines = listening.end()
    assert code == 0
    assert {json.loads(line)["data"]["id"] for line in lines if '"job.succeeded"' in line} <= jobs
    assert all(json.loads(line)["verified"] for line in lines)
    assert list(client.webhooks.list()) == []
