"""The launcher over stand-ins that fail in the ways their names say: real processes, a real Redis."""

from __future__ import annotations

import json
import os
import pty
import signal
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.smarttextgen.fake_api import eventually

SCRIPT = Path(__file__).parent / "stand_ins" / "stack.py"
ROOT = Path(__file__).resolve().parents[2]


class Launched:
    """A launcher process over stand-ins, in a folder of its own."""

    def __init__(self, folder: Path, worker: str, workers: int = 1) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.ready_file = folder / "ready.json"
        (folder / "stand_ins").mkdir(exist_ok=True)
        self._output = (folder / "output").open("w+")
        env = {
            **os.environ,
            "STAND_IN_FOLDER": str(folder / "stand_ins"),
            "PYTHONPATH": str(ROOT),
            "WORKER_DRAIN_S": "-8",
            "WORKER_LEASE_S": "-1",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(SCRIPT), str(self.data), str(self.ready_file), worker, str(workers)],
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=env,
        )
        self.started: set[psutil.Process] = set()

    def wait_until_ready(self) -> dict[str, Any]:
        assert eventually(lambda: self.ready_file.exists() or self.process.poll() is not None, 30), self.output
        assert self.process.poll() is None, self.output
        self.remember_processes()
        return self.ready

    def remember_processes(self) -> None:
        self.started |= set(psutil.Process(self.process.pid).children(recursive=True))

    @property
    def ready(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.ready_file.read_text())
        return content

    @property
    def output(self) -> str:
        return (self.folder / "output").read_text()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output.splitlines()]

    def states(self, part: str) -> list[str]:
        return [event["state"] for event in self.events if event.get("part") == part]

    def processes_left(self) -> list[psutil.Process]:
        return [each for each in self.started if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]

    def ends(self, timeout_s: float = 20) -> int:
        return self.process.wait(timeout_s)

    def clean_up(self) -> None:
        if self.process.poll() is None:
            self.remember_processes()
            self.process.kill()
            self.process.wait()
        for each in self.processes_left():
            each.kill()
        self._output.close()


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Any]:
    made: list[Launched] = []

    def start(worker: str = "healthy", workers: int = 1) -> Launched:
        made.append(Launched(tmp_path, worker, workers))
        return made[-1]

    yield start
    for each in made:
        each.clean_up()


def test_a_stack_comes_up_and_ctrl_c_stops_all_of_it_in_order(launch: Any) -> None:
    stack = launch(workers=2)
    ready = stack.wait_until_ready()
    assert {kind: len(pids) for kind, pids in ready["pids"].items()} == {
        "redis": 1, "worker": 2, "courier": 1, "api": 1, "flower": 1,
    }  # fmt: skip
    assert all(psutil.pid_exists(pid) for pids in ready["pids"].values() for pid in pids)
    request = urllib.request.Request(f"{ready['url']}/api/jobs", headers={"X-API-Key": ready["api_key"]})
    assert urllib.request.urlopen(request).status == 200

    stack.process.send_signal(signal.SIGINT)
    assert stack.ends() == 0
    stopped = [event["part"] for event in stack.events if event.get("state") == "stopped"]
    assert (stopped[0], set(stopped[1:3]), stopped[3:]) == (
        "api",
        {"worker-1", "worker-2"},
        ["courier", "flower", "redis"],
    )
    assert stack.processes_left() == []
    assert not stack.ready_file.exists()
    assert (stack.folder / "stand_ins" / "order").read_text() == "worker\nworker\n"
    assert "DB saved on disk" in (stack.data / "logs" / "redis.log").read_text()


def test_secrets_are_the_owners_alone(launch: Any) -> None:
    stack = launch()
    ready = stack.wait_until_ready()
    for path in (stack.ready_file, stack.data / "ready.json", stack.data / "keys.json", stack.data / "redis.conf"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    password = ready["redis_url"].split(":")[2].split("@")[0]
    command_lines = [" ".join(each.cmdline()) for each in stack.started if each.is_running()]
    assert not any(password in line or ready["flower_password"] in line for line in command_lines)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda each: each.name)
def test_a_service_manager_or_a_closed_terminal_stops_it_too(launch: Any, number: signal.Signals) -> None:
    stack = launch()
    stack.wait_until_ready()
    stack.process.send_signal(number)
    assert stack.ends() == 0
    assert stack.processes_left() == []


def test_a_closed_terminal_stops_it(tmp_path: Path) -> None:
    """The terminal's end sends SIGHUP, and from then on every write fails."""
    (tmp_path / "stand_ins").mkdir()
    ready_file = tmp_path / "ready.json"
    child, terminal = pty.fork()
    if child == 0:
        os.environ |= {"STAND_IN_FOLDER": str(tmp_path / "stand_ins"), "PYTHONPATH": str(ROOT)}
        words = [str(tmp_path / "data"), str(ready_file), "healthy"]
        os.execv(sys.executable, [sys.executable, "-P", str(SCRIPT), *words])
    launcher = psutil.Process(child)
    assert eventually(ready_file.exists, 30), os.read(terminal, 65536)
    processes = launcher.children(recursive=True)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes)


def test_an_output_that_nobody_reads_any_more_changes_no_exit_code() -> None:
    code = (
        "import sys; from smarttextgen.launcher.steady_output import steady; sys.stdin.read()\n"
        "out = steady(sys.stdout); out.write('x' * 100); out.flush(); out.write('y' * 100)"
    )
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout
        assert process.stdin
        process.stdout.close()
        process.stdin.close()
        assert process.wait(30) == 0


def test_stopped_while_it_starts(launch: Any) -> None:
    stack = launch()
    assert eventually(lambda: "starting" in stack.output)
    stack.remember_processes()
    stack.process.send_signal(signal.SIGINT)
    assert stack.ends() == 0
    assert stack.processes_left() == []


def test_kill_9_of_the_launcher_leaves_nothing_behind(launch: Any) -> None:
    stack = launch()
    stack.wait_until_ready()
    assert len(stack.started) == 7  # redis, worker, its child, courier, api, flower, guard
    stack.process.kill()
    stack.ends()
    assert eventually(lambda: not stack.processes_left(), 20), stack.processes_left()
    assert not stack.ready_file.exists()
    assert "DB saved on disk" in (stack.data / "logs" / "redis.log").read_text()


def test_kill_9_of_the_guard_and_then_of_the_launcher(launch: Any) -> None:
    """The launcher sees the guard's end when it next has something to say to it, and starts another."""
    stack = launch()
    first = stack.wait_until_ready()
    guard = next(each for each in stack.started if any(word.endswith("guard.py") for word in each.cmdline()))
    guard.kill()
    os.kill(first["pids"]["flower"][0], signal.SIGKILL)
    assert eventually(lambda: stack.ready["pids"]["flower"] not in ([], first["pids"]["flower"]))
    stack.remember_processes()
    stack.process.kill()
    stack.ends()
    assert eventually(lambda: not stack.processes_left(), 20), stack.processes_left()


@pytest.mark.parametrize("kind", ["redis", "worker", "courier", "api", "flower"])
def test_a_part_that_was_killed_is_reported_and_started_again(launch: Any, kind: str) -> None:
    stack = launch()
    first = stack.wait_until_ready()
    os.kill(first["pids"][kind][0], signal.SIGKILL)
    assert eventually(lambda: stack.ready["pids"][kind] not in ([], first["pids"][kind]), 20), stack.output
    event = next(event for event in stack.events if event.get("state") == "restarting")
    assert "SIGKILL" in event["detail"]
    unchanged = {name: value for name, value in first.items() if name != "pids"}
    assert {name: value for name, value in stack.ready.items() if name != "pids"} == unchanged
    stack.remember_processes()
    stack.process.send_signal(signal.SIGINT)
    assert stack.ends() == 0
    assert stack.processes_left() == []


def test_clients_of_an_api_that_restarts_wait_instead_of_being_refused(launch: Any) -> None:
    stack = launch()
    ready = stack.wait_until_ready()
    api = psutil.Process(ready["pids"]["api"][0])
    api.kill()
    psutil.wait_procs([api], 1)
    assert urllib.request.urlopen(f"{ready['url']}/health", timeout=20).status == 200


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "127.0.0.0/8,::1,localhost"),
        ({"WEBHOOK_ALLOWLIST": "10.0.0.0/8"}, "10.0.0.0/8"),
        ({"API_HOST": "0.0.0.0"}, ""),
    ],
    ids=["own", "given", "open_to_others"],
)
def test_webhooks_may_call_this_machine_where_only_it_reaches_the_api(
    launch: Any, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: str
) -> None:
    monkeypatch.delenv("WEBHOOK_ALLOWLIST", raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    stack = launch()
    stack.wait_until_ready()
    assert (stack.folder / "stand_ins" / "allowlist").read_text() == expected


def test_crashes_once(launch: Any) -> None:
    stack = launch("crashes_once")
    stack.wait_until_ready()
    assert stack.states("worker-1") == ["starting", "restarting", "starting", "ready"]


def test_crashes_at_start_ends_the_stack_with_the_reason(launch: Any) -> None:
    stack = launch("crashes_at_start")
    assert stack.ends() == 1
    failed = next(event for event in stack.events if event["event"] == "failed")
    assert failed["message"] == "worker-1 crashed at every start (3 times): exit code 3."
    assert failed["last_lines"] == ["ModelLoadError: /nowhere/model is not a model"]
    assert not stack.ready_file.exists()
    assert not [
        each for each in psutil.process_iter(["cmdline"]) if str(stack.folder) in " ".join(each.info["cmdline"] or [])
    ]


def test_model_cannot_load_ends_the_stack_at_the_first_try(launch: Any) -> None:
    stack = launch("model_cannot_load")
    assert stack.ends() == 1
    assert stack.states("worker-1")[:1] == ["starting"]
    assert "restarting" not in stack.states("worker-1")
    failed = next(event for event in stack.events if event["event"] == "failed")
    assert failed["last_lines"] == ["ModelLoadError: /nowhere/model is not a model"]


def test_crashes_when_ready_ends_the_stack_in_the_end(launch: Any) -> None:
    stack = launch("crashes_when_ready")
    assert stack.ends(60) == 1
    assert "worker-1 crashed 5 times within 60 s" in stack.output


def test_ignores_sigterm_is_killed_after_its_grace(launch: Any) -> None:
    stack = launch("ignores_sigterm")
    stack.wait_until_ready()
    stack.process.send_signal(signal.SIGINT)
    assert stack.ends() == 0
    assert "did not end in time" in stack.output
    assert stack.processes_left() == []


def test_a_second_ctrl_c_ends_all_at_once(launch: Any) -> None:
    stack = launch("ignores_sigterm")
    stack.wait_until_ready()
    stack.process.send_signal(signal.SIGINT)
    assert eventually(lambda: stack.states("worker-1")[-1] == "stopping")
    time.sleep(0.4)  # within 0.3 s it counts as the same press
    asked_at = time.monotonic()
    stack.process.send_signal(signal.SIGINT)
    stack.ends()
    assert time.monotonic() - asked_at < 1.5
    assert stack.processes_left() == []


def test_the_next_start_keeps_keys_that_work_and_replaces_others(launch: Any) -> None:
    def keys_of_a_run(stack: Launched) -> set[str]:
        ready = stack.wait_until_ready()
        stack.process.send_signal(signal.SIGINT)
        stack.ends()
        return {ready["api_key"], ready["admin_key"]}

    stack = launch()
    first = keys_of_a_run(stack)
    assert keys_of_a_run(launch()) == first
    (stack.folder / "stand_ins" / "keys").write_text("")  # as if it were another store: 401 from now on
    assert keys_of_a_run(launch()).isdisjoint(first)


def test_two_stacks_do_not_share_a_data_directory(launch: Any) -> None:
    first = launch()
    ready = first.wait_until_ready()
    argv = [sys.executable, "-m", "smarttextgen", "up", "--data-dir", str(first.data)]
    second = subprocess.run(argv, capture_output=True, check=False, text=True, timeout=20)
    assert second.returncode == 1
    assert "already" in second.stdout
    assert ready["url"] in second.stdout.replace("\n", "")


def test_a_port_in_use_is_said_at_once(launch: Any, tmp_path: Path) -> None:
    ready = launch().wait_until_ready()
    port = ready["url"].rpartition(":")[2]
    argv = [sys.executable, "-m", "smarttextgen", "up", "--data-dir", str(tmp_path / "other"), "--port", port]
    second = subprocess.run(argv, capture_output=True, check=False, text=True, timeout=20)
    assert second.returncode == 1
    assert f"Port {port}" in second.stdout
