"""What the READMEs and docs/clients.md print runs as printed, against a real stack on the echo engine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import standardwebhooks

from tests.servers import Process, free_port, until

ROOT = Path(__file__).resolve().parent.parent
READMES = ("README.md", "README.zh-TW.md")
CLIENTS = "docs/clients.md"
SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict]:
    folder = tmp_path_factory.mktemp("stack")
    ready = folder / "ready.json"
    arguments = ["up", "--engine", "echo", "--data-dir", str(folder), "--ready-file", str(ready)]
    process = Process(
        [sys.executable, "-m", "smarttextgen", *arguments], folder / "up.log", {"WEBHOOK_ALLOWLIST": "127.0.0.1"}
    )
    try:
        until(lambda: ready.exists() or process.process.poll() is not None, 60)
        assert ready.exists(), process.output()
        yield json.loads(ready.read_text())
        process.process.terminate()
        assert process.wait(60) in (0, 130, 143), process.output()
    finally:
        process.kill()


def blocks(readme: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / readme).read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("readme", READMES)
def test_the_curl_lines_work_as_printed(readme: str, stack: dict):
    environment = os.environ | {"URL": stack["url"], "KEY": stack["api_key"]}
    run = [block for block in blocks(readme, "sh") if "curl" in block and "/stream" not in block]
    assert len(run) == 4
    for block in run:
        done = subprocess.run(["bash", "-ec", block], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (block, done.stderr)
        answers = [json.loads(line) for line in done.stdout.replace("}{", "}\n{").splitlines()]
        assert answers
        for answer in answers:
            assert not answer.get("error"), (block, answer)
            assert answer.get("status") != "failed"


@pytest.mark.parametrize("readme", READMES)
def test_the_stream_is_watched_as_printed(readme: str, stack: dict):
    environment = os.environ | {"URL": stack["url"], "KEY": stack["api_key"]}
    (block,) = [block for block in blocks(readme, "sh") if "/stream" in block]
    done = subprocess.run(["bash", "-ec", block], env=environment, capture_output=True, text=True, check=True)
    events = re.findall(r"^event: (.*)$", done.stdout, re.MULTILINE)
    assert events[0] == "queued"
    assert "output" in events
    assert events[-1] == "succeeded"


@pytest.mark.parametrize("readme", READMES)
def test_the_python_example_works_as_printed(readme: str, stack: dict):
    (example,) = blocks(readme, "python")
    example = example.replace("http://127.0.0.1:8000", stack["url"]).replace("stg_…", stack["api_key"])
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, check=True)
    assert done.stdout.strip()


@pytest.mark.parametrize("readme", READMES)
def test_the_shell_commands_work_as_printed(readme: str, stack: dict):
    (block,) = [block for block in blocks(readme, "sh") if "smarttextgen jobs" in block]
    environment = os.environ | {"SMARTTEXTGEN_URL": stack["url"], "SMARTTEXTGEN_API_KEY": stack["api_key"]}
    for line in block.splitlines():
        command = line.replace(".venv/bin/smarttextgen", f"{sys.executable} -m smarttextgen")
        done = subprocess.run(["bash", "-ec", command], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        assert done.stdout.strip()


def client_environment(stack: dict) -> dict[str, str]:
    own = {"SMARTTEXTGEN_URL": stack["url"], "SMARTTEXTGEN_API_KEY": stack["api_key"]}
    return os.environ | own | {"SMARTTEXTGEN_WEBHOOK_SECRET": SECRET}


def test_the_clients_page_works_in_a_shell_as_printed(stack: dict, tmp_path: Path):
    """One block after the other in one folder, as a reader types them."""
    command = f'smarttextgen() {{ "{sys.executable}" -m smarttextgen "$@"; }}\n'
    environment = client_environment(stack)
    del environment["SMARTTEXTGEN_WEBHOOK_SECRET"]
    found = blocks(CLIENTS, "sh")
    assert len(found) == 5
    printed = []
    for block in found:
        typed = command + block.replace("8765", str(free_port()))
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", typed],
            env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, (block, done.stdout, done.stderr)
        assert done.stdout.strip() or "results.jsonl" in block
        printed.append(done.stdout)
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert sorted(line["index"] for line in lines) == [0, 1, 2]
    assert "verified" in printed[-1]
    assert "delivered" in printed[-1]


def test_the_clients_page_works_in_python_as_printed(stack: dict):
    found = blocks(CLIENTS, "python")
    assert len(found) == 3
    for example in found:
        done = subprocess.run(
            [sys.executable, "-c", example], env=client_environment(stack), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (example, done.stderr)
        assert done.stdout.strip() or "Flask" in example


def test_the_receiver_on_the_clients_page_trusts_what_is_signed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SMARTTEXTGEN_WEBHOOK_SECRET", SECRET)
    (example,) = [block for block in blocks(CLIENTS, "python") if "verify_webhook" in block]
    names = {"__name__": __name__}
    exec(example, names)
    client = names["app"].test_client()
    body, now = '{"type": "job.succeeded", "data": {"id": "job_1", "output": "x"}}', datetime.now(UTC)
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": standardwebhooks.Webhook(SECRET).sign("msg_1", now, body),
    }
    assert client.post("/hook", data=body, headers=headers).status_code == 204
    assert client.post("/hook", data=body + " ", headers=headers).status_code == 400


@pytest.mark.parametrize("readme", READMES)
def test_every_link_and_make_target_exists(readme: str):
    text = (ROOT / readme).read_text()
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / link).exists(), link
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)", text)) <= targets


def test_both_readmes_say_the_same_to_a_shell():
    english, chinese = ([re.sub(r'"prompts?": [^,}\]]+', "", b) for b in blocks(name, "sh")] for name in READMES)
    assert len(english) == len(chinese)
