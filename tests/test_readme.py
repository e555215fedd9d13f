"""What the READMEs print runs as printed, against a real stack on the echo engine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import Process, until

ROOT = Path(__file__).resolve().parent.parent
READMES = ("README.md", "README.zh-TW.md")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict]:
    folder = tmp_path_factory.mktemp("stack")
    ready = folder / "ready.json"
    arguments = ["up", "--engine", "echo", "--data-dir", str(folder), "--ready-file", str(ready)]
    process = Process([sys.executable, "-m", "smarttextgen", *arguments], folder / "up.log", {})
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
    run = [block for block in blocks(readme, "sh") if "curl" in block]
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
