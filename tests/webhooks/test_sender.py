"""How a receiver is reached: names and addresses, TLS with the name, no redirects, no proxies; and what its answers mean."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import json
import shutil
import socket
import ssl
import subprocess
import time
from email.utils import format_datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from standardwebhooks import Webhook

from shared.addresses import AllowList, Guard
from shared.webhooks import Verdict, new_secret
from tests.webhooks.receiver import Receiver, answers
from worker.courier.schedule import LONGEST_RETRY_AFTER_S, Answer, Schedule, retry_after_s
from worker.courier.sender import Sender
from worker.courier.signing import signature_headers

NAME = "hooks.shop.example"


def send(url: str, *allowed: str, timeout_s: float = 3, **headers: str) -> Answer:
    sender = Sender(Guard(AllowList.parse(allowed)), timeout_s)
    try:
        return asyncio.run(sender.send(url, b"{}", headers))
    finally:
        sender.close()


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[str]]]:
    """A name server: name → its answers, one after the other (the last one for good)."""
    book: dict[str, list[list[str]]] = {}
    real = socket.getaddrinfo

    def look_up(host, port, *args, **more):
        if host not in book:
            return real(host, port, *args, **more)
        found = book[host].pop(0) if len(book[host]) > 1 else book[host][0]
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return book


# --- names


def test_the_name_is_looked_up_once_and_the_address_that_was_checked_is_called(receiver: Receiver, resolve) -> None:
    resolve[NAME] = [["127.0.0.1"], ["127.0.0.99"]]
    assert send(f"http://{NAME}:{receiver.port}/x", NAME) == Answer(200)
    assert receiver.received[0].headers["host"] == f"{NAME}:{receiver.port}"
    assert len(resolve[NAME]) == 1


@pytest.mark.parametrize(
    "moved_to", [["127.0.0.1"], ["93.184.216.34", "127.0.0.1"], ["::ffff:127.0.0.1"], ["169.254.169.254"]]
)
def test_a_name_that_moved_is_refused(receiver: Receiver, resolve, moved_to: list[str]) -> None:
    resolve[NAME] = [moved_to]
    answer = send(f"https://{NAME}:{receiver.port}/x")
    assert answer.error == "Not called: The host's address is not one of the public internet."
    assert receiver.received == []


def test_a_name_that_is_unknown_or_too_long(resolve) -> None:
    resolve[NAME] = [[]]
    assert send(f"https://{NAME}/").error == "The host's name does not resolve."
    long = ".".join(["a" * 63] * 5)
    assert send(f"https://{long}.com/").error == "The host's name does not resolve."


def test_the_next_address_is_tried_where_one_does_not_answer(receiver: Receiver, resolve) -> None:
    resolve[NAME] = [["127.0.0.2", "127.0.0.1"]]
    assert send(f"http://{NAME}:{receiver.port}/", NAME) == Answer(200)


def test_a_name_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_more: time.sleep(1))
    began = time.monotonic()
    assert send(f"https://{NAME}/", timeout_s=0.2).error == "No answer within 0.2 s."
    assert time.monotonic() - began < 0.9


def test_no_proxy_of_the_environment_stands_between(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert send(receiver.url, "127.0.0.1") == Answer(200)


# --- TLS


class Authority:
    """A certificate authority of the test's own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        certificate = self._build(self._name, self._key, ca=True).sign(self._key, hashes.SHA256())
        self.file = folder / "ca.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def _build(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        public = key.public_key()
        return (
            x509.CertificateBuilder()
            .subject_name(subject).issuer_name(self._name).public_key(public).serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1)).not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .add_extension(
                x509.KeyUsage(True, False, False, False, False, ca, ca, False, False), critical=True
            )
        )  # fmt: skip

    def server(self, *names: str) -> ssl.SSLContext:
        """What a server with a certificate for these names needs. It refuses who does not ask for one of them."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "receiver")])
        kinds = [_general_name(name) for name in names]
        certificate = self._build(subject, key, ca=False).add_extension(
            x509.SubjectAlternativeName(kinds), critical=False
        )
        file = self._folder / "server.pem"
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        self.asked: list[str | None] = []
        context.sni_callback = lambda _socket, name, _context: self.asked.append(name)  # type: ignore[assignment]
        return context


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """One that couriers trust."""
    made = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(made.file))
    return made


def test_tls_is_begun_with_the_name_though_the_address_is_called(authority: Authority, resolve) -> None:
    resolve[NAME] = [["127.0.0.1"]]
    with Receiver(authority.server(NAME)) as receiver:
        assert send(f"https://{NAME}:{receiver.port}/x", NAME) == Answer(200)
        assert authority.asked == [NAME]
        assert receiver.received[0].headers["host"] == f"{NAME}:{receiver.port}"


def test_an_address_may_have_a_certificate_too(authority: Authority) -> None:
    with Receiver(authority.server("127.0.0.1")) as receiver:
        assert send(f"https://127.0.0.1:{receiver.port}/x", "127.0.0.1") == Answer(200)


def test_another_names_certificate_is_refused(authority: Authority, resolve) -> None:
    resolve[NAME] = [["127.0.0.1"]]
    with Receiver(authority.server("other.example")) as receiver:
        error = send(f"https://{NAME}:{receiver.port}/x", NAME).error
        assert error is not None
        assert error.startswith("TLS: Hostname mismatch")
        assert receiver.received == []


def test_an_unknown_authority_is_refused(tmp_path: Path) -> None:
    with Receiver(Authority(tmp_path).server("127.0.0.1")) as receiver:
        error = send(f"https://127.0.0.1:{receiver.port}/x", "127.0.0.1").error
        assert error is not None
        assert error.startswith("TLS: unable to get local issuer certificate") or "self-signed" in error
        assert receiver.received == []


def test_no_tls_where_it_was_asked_for(receiver: Receiver) -> None:
    assert send(receiver.url.replace("http", "https"), "127.0.0.1").error == "TLS: the handshake failed."


# --- signatures


def test_signatures_are_those_of_standard_webhooks() -> None:
    secrets = [new_secret(), new_secret()]
    body = json.dumps({"type": "job.succeeded", "data": {"output": "Grüße 你好 \u2028"}}, ensure_ascii=False)
    headers = signature_headers("msg_1", body, secrets, time.time())
    assert all(part.startswith("v1,") for part in headers["webhook-signature"].split(" "))
    for secret in secrets:
        assert Webhook(secret).verify(body.encode(), headers)["type"] == "job.succeeded"
    # The example of the specification's own test vectors.
    known = signature_headers(
        "msg_p5jXN8AQM9LWM0D4loKWxJek", '{"test": 2432232314}', ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"], 1614265330
    )
    assert known["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


NODE = """
const { Webhook } = require("standardwebhooks");
const given = JSON.parse(require("fs").readFileSync(0, "utf8"));
const told = new Webhook(given.secret).verify(given.body, given.headers);
let refused = false;
try { new Webhook(given.secret).verify(given.body + " ", given.headers); } catch { refused = true; }
console.log(JSON.stringify({ type: told.type, output: told.data.output, refused }));
"""


@pytest.fixture(scope="module")
def node_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which Node finds the package standardwebhooks."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("no node and npm on PATH")
    folder = tmp_path_factory.mktemp("node")
    done = subprocess.run(
        [npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), "standardwebhooks@1.0.0"],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    if done.returncode != 0:
        pytest.skip(f"npm cannot install standardwebhooks: {done.stderr.strip()[-200:]}")
    return folder


def test_the_node_package_verifies_them(node_package: Path) -> None:
    secrets = [new_secret(), new_secret()]
    body = json.dumps({"type": "job.succeeded", "data": {"output": "Grüße 你好"}}, ensure_ascii=False)
    headers = signature_headers("msg_1", body, secrets, time.time())
    for secret in secrets:
        given = json.dumps({"secret": secret, "body": body, "headers": headers})
        done = subprocess.run(
            ["node", "-e", NODE], input=given, capture_output=True, text=True, check=False, cwd=node_package, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {"type": "job.succeeded", "output": "Grüße 你好", "refused": True}


# --- the schedule

DELAYS = (5.0, 300.0, 1800.0)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_2xx_is_success(status: int) -> None:
    assert Schedule(DELAYS).judge(Answer(status), 1).verdict is Verdict.DELIVERED


@pytest.mark.parametrize(
    "answer", [Answer(status) for status in (100, 301, 400, 401, 404, 429, 500, 503)] + [Answer(error="No.")]
)
def test_all_else_is_tried_again_until_the_schedule_is_used_up(answer: Answer) -> None:
    schedule = Schedule(DELAYS)
    for step, delay in enumerate(DELAYS, start=1):
        attempt = schedule.judge(answer, step)
        assert attempt.verdict is Verdict.AGAIN
        assert 0.9 * delay <= attempt.retry_in_s <= 1.1 * delay
        assert attempt.error
    assert schedule.judge(answer, len(DELAYS) + 1).verdict is Verdict.FAILED
    assert len({schedule.judge(answer, 3).retry_in_s for _ in range(5)}) > 1, "jitter"


def test_the_default_schedule_is_the_published_one() -> None:
    from shared.settings import Settings

    hours = [round(delay / 3600, 4) for delay in Settings().webhook_delays_s]
    assert hours == [0.0014, 0.0833, 0.5, 2, 5, 10, 14, 20, 24]


def test_410_ends_it() -> None:
    attempt = Schedule(DELAYS).judge(Answer(410), 1)
    assert (attempt.verdict, attempt.disable) == (Verdict.FAILED, "gone")


def test_retry_after_only_makes_it_later_and_only_where_it_makes_sense() -> None:
    schedule = Schedule(DELAYS)
    assert schedule.judge(Answer(503, retry_after="60"), 1).retry_in_s == 60
    assert schedule.judge(Answer(503, retry_after="60"), 2).retry_in_s > 250
    assert schedule.judge(Answer(500, retry_after="60"), 1).retry_in_s < 6
    assert schedule.judge(Answer(429, retry_after="9" * 30), 1).retry_in_s == LONGEST_RETRY_AFTER_S


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, 0), ("", 0), ("0", 0), ("7", 7), ("-7", 0), ("1.5", 0), ("soon", 0), ("\u0667", 0), ("9" * 400, 86_400),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("Wed, 21 Oct 9999 07:28:00 GMT", 86_400), ("Wed, 99 Oct 2015 07:28:00 GMT", 0),
    ],
)  # fmt: skip
def test_retry_after_is_read_leniently(value: str | None, seconds: float) -> None:
    assert retry_after_s(value) == seconds


def test_retry_after_may_be_a_date() -> None:
    moment = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=100)
    assert 95 < retry_after_s(format_datetime(moment, usegmt=True)) <= 100


def test_answers_carries_headers(receiver: Receiver) -> None:
    receiver.behaves(answers(503, Retry_After="17"))
    assert send(receiver.url, "127.0.0.1") == Answer(503, retry_after="17")
