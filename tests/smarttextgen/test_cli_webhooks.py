"""`smarttextgen webhooks`: endpoints, deliveries, and the receiver for local work."""

from __future__ import annotations

import base64
import json
import signal
import socket
from datetime import UTC, datetime

import httpx
import pytest
import standardwebhooks
from typer.testing import CliRunner, Result

from smarttextgen.cli import app
from smarttextgen.cli.exits import ExitCode
from tests.smarttextgen.fake_api import KEY, FakeApi, eventually
from tests.smarttextgen.fake_webhooks import DEFAULT_SECRET, NEW_SECRET
from tests.smarttextgen.processes import Listening

OWN_SECRET = "whsec_" + base64.b64encode(b"own" * 10).decode()
JOB = {"id": "job_1", "status": "succeeded", "output": "我的包裹 🧦", "execution_time_ms": 1500}


def run(api: FakeApi, *words: str) -> Result:
    env = {"SMARTTEXTGEN_URL": api.url, "SMARTTEXTGEN_API_KEY": KEY}
    return CliRunner().invoke(app, ["webhooks", *words], env=env)


def test_endpoints(api: FakeApi) -> None:
    made = run(api, "create", "https://example.org/hook", "--events", "job.failed, job.expired")
    assert (made.exit_code, made.stdout) == (0, NEW_SECRET + "\n")
    assert "we_1" in made.stderr
    assert api.webhooks.endpoints["we_1"]["events"] == ["job.failed", "job.expired"]
    assert "https://example.org/hook" in run(api, "list").stdout
    assert "we_1" in run(api, "get", "we_1").stdout
    assert "disabled" in run(api, "update", "we_1", "--disable", "--description", "x").stdout
    assert run(api, "rotate-secret", "we_1").stdout == NEW_SECRET + "\n"
    assert run(api, "secret").stdout == DEFAULT_SECRET + "\n"
    assert run(api, "delete", "we_1").exit_code == 0
    assert run(api, "get", "we_1").exit_code == ExitCode.NOT_THERE


def test_deliveries(api: FakeApi) -> None:
    assert "No deliveries." in run(api, "deliveries", "default").stdout
    assert run(api, "test", "default").stdout == "dlv_1\n"
    assert run(api, "redeliver", "default", "dlv_1").stdout == "dlv_2\n"
    assert run(api, "deliveries", "default").stdout.count("pending") == 2
    assert run(api, "deliveries", "default", "--limit", "1").stdout.count("pending") == 1
    assert "No deliveries." in run(api, "deliveries", "default", "--status", "failed").stdout


@pytest.mark.parametrize(
    "words",
    [
        "create https://example.org",
        "list",
        "get default",
        "update default --description x",
        "rotate-secret default",
        "secret",
        "test default",
        "deliveries default",
        "redeliver default dlv_1",
        "delete we_1",
    ],
)
def test_json_everywhere(api: FakeApi, words: str) -> None:
    api.webhooks.endpoints["we_1"] = {"id": "we_1"}
    done = run(api, *words.split(), "--json")
    assert done.exit_code == 0
    json.loads(done.stdout)


# --- listening


class Receiving(Listening):
    """`webhooks listen` as a process. ``deliver`` sends to it as the service does; returns the status."""

    def deliver(self, secret: str, kind: str = "job.succeeded", data: object = None) -> int:
        now = datetime.now(UTC)
        body = json.dumps({"type": kind, "timestamp": now.isoformat(), "data": data or JOB}, ensure_ascii=False)
        headers = {
            "webhook-id": "msg_1",
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": standardwebhooks.Webhook(secret).sign("msg_1", now, body),
        }
        return httpx.post(self.url, content=body.encode(), headers=headers, trust_env=False).status_code


def test_listen_tells_good_from_bad(api: FakeApi) -> None:
    listening = Receiving(api.url, KEY)
    assert listening.deliver(DEFAULT_SECRET) == 204
    assert listening.deliver(OWN_SECRET) == 400
    assert listening.deliver(DEFAULT_SECRET, "batch.completed", {"id": "batch_1", "status": "completed"}) == 204
    assert listening.deliver(DEFAULT_SECRET, "of.tomorrow", {"x": 1}) == 204
    assert httpx.post(listening.url, content=b"hello", trust_env=False).status_code == 400
    code, lines = listening.end(signal.SIGINT)
    assert code == ExitCode.INTERRUPTED
    assert [line.split("  ")[1] for line in lines] == ["verified", "refused", "verified", "verified", "refused"]
    assert "job.succeeded  job_1 1.50 s 我的包裹 🧦" in lines[0]
    assert "No matching signature" in lines[1]
    assert "batch.completed  batch_1 completed" in lines[2]


def test_listen_as_json_for_so_many(api: FakeApi) -> None:
    listening = Receiving(api.url, KEY, "--secret", OWN_SECRET, "--json", "--count", "2")
    assert [listening.deliver(secret) for secret in (OWN_SECRET, DEFAULT_SECRET, OWN_SECRET)] == [204, 400, 204]
    code, lines = listening.end()
    assert code == 0
    first, second, third = map(json.loads, lines)
    assert (first["verified"], second["verified"], third["verified"]) == (True, False, True)
    assert (first["id"], first["type"], first["data"]) == ("msg_1", "job.succeeded", JOB)
    assert not api.seen


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_registered_endpoint_is_there_while_it_listens(api: FakeApi, number: int) -> None:
    listening = Receiving(api.url, KEY, "--register", "--events", "job.succeeded")
    (endpoint,) = [each for each in api.webhooks.endpoints.values() if each["id"] != "default"]
    assert (endpoint["url"], endpoint["events"]) == (listening.url, ["job.succeeded"])
    assert listening.deliver(NEW_SECRET) == 204
    listening.end(number)
    assert list(api.webhooks.endpoints) == ["default"]


def test_a_registered_endpoint_that_somebody_else_deleted(api: FakeApi) -> None:
    listening = Receiving(api.url, KEY, "--register", "--public-url", "https://example.org/x")
    assert api.webhooks.endpoints.pop("we_1")["url"] == "https://example.org/x"
    assert listening.end(signal.SIGTERM)[0] == 0


def test_what_it_cannot_listen_with(api: FakeApi) -> None:
    assert run(api, "listen", "--secret", "nonsense!").exit_code == ExitCode.USAGE
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run(api, "listen", "--port", str(taken.getsockname()[1]))
    assert done.exit_code == ExitCode.USAGE
    assert "Cannot listen" in done.stderr


def test_requests_that_are_no_deliveries(api: FakeApi) -> None:
    listening = Receiving(api.url, KEY)
    assert httpx.get(listening.url, trust_env=False).status_code == 501
    port = int(listening.url.rstrip("/").rsplit(":", 1)[1])
    for head, status in (
        (b"", b"411"),
        (b"Content-Length: -1\r\n", b"413"),
        (b"Content-Length: 999999999\r\n", b"413"),
    ):
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n")
            assert status in sock.recv(1000)
    assert listening.deliver(DEFAULT_SECRET) == 204
    assert len(listening.end(signal.SIGINT)[1]) == 1


def test_a_webhook_goes_with_a_job(api: FakeApi) -> None:
    env = {"SMARTTEXTGEN_URL": api.url, "SMARTTEXTGEN_API_KEY": KEY}
    words = [
        "submit",
        "hi",
        "--no-wait",
        "--webhook",
        "http://127.0.0.1:9/",
        "--webhook-events",
        "job.started,job.failed",
    ]
    assert CliRunner().invoke(app, words, env=env).exit_code == 0
    assert api.seen[-1].body == {
        "prompt": "hi",
        "webhook": "http://127.0.0.1:9/",
        "webhook_events_filter": ["job.started", "job.failed"],
    }
    assert eventually(lambda: bool(api.jobs))
