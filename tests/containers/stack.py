"""The composed stack under a project name, ports and secrets of its own, driven as an operator drives it: by
docker-compose, and over HTTP."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.servers import free_port, until

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("redis", "api", "worker", "courier", "flower", "redis-exporter", "prometheus", "alertmanager", "grafana")
OWNERS = {"redis-data": "999:999", "prometheus-data": "65534:65534", "alertmanager-data": "65534:65534"}
START_S = 180.0
RECEIVER, RECEIVER_PORT = "receiver", 9999
RECEIVE = f"""
from http.server import BaseHTTPRequestHandler, HTTPServer
class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        print(self.headers["webhook-signature"], body, flush=True)
        self.send_response(204)
        self.end_headers()
    def log_message(self, *_): ...
HTTPServer(("", {RECEIVER_PORT}), Receiver).serve_forever()
"""


def compose_program() -> list[str] | None:
    """docker-compose, or the plugin of that name; None where there is neither."""
    if program := shutil.which("docker-compose"):
        return [program]
    if docker := shutil.which("docker"):
        plugin = subprocess.run([docker, "compose", "version"], check=False, capture_output=True)
        return [docker, "compose"] if plugin.returncode == 0 else None
    return None


def why_not() -> str | None:
    """Why container tests cannot run here, or None."""
    if compose_program() is None:
        return "neither docker-compose nor docker with its compose plugin is on PATH"
    info = subprocess.run(["docker", "info"], check=False, capture_output=True, text=True)
    return None if info.returncode == 0 else f"no Docker engine answers: {info.stderr.strip().splitlines()[-1]}"


def docker(*words: str, check: bool = True) -> str:
    answer = subprocess.run(["docker", *words], check=False, capture_output=True, text=True)
    assert answer.returncode == 0 or not check, f"docker {' '.join(words)}: {answer.stderr}"
    return answer.stdout.strip()


class Stack:
    """One project. ``env``: variables of its .env besides the secrets and ports."""

    def __init__(self, folder: Path, **env: str) -> None:
        self.project = f"stg{secrets.token_hex(3)}"
        self.ports = {name: free_port() for name in ("api", "flower", "prometheus", "alertmanager", "grafana")}
        self.passwords = {name: secrets.token_hex(16) for name in ("redis", "flower", "grafana")}
        self.env_file = folder / ".env"
        self.key = ""
        ports = {f"{name.upper()}_PORT": str(port) for name, port in self.ports.items() if name != "api"}
        self.values = {
            **{f"{name.upper()}_PASSWORD": value for name, value in self.passwords.items()},
            **ports,
            "API_PUBLISH": f"127.0.0.1:{self.ports['api']}",
            "COMPOSE_PROFILES": "cpu",
            "VERSION": "containers-test",
            "WEBHOOK_ALLOWLIST": f"{RECEIVER}:{RECEIVER_PORT}",
            **env,
        }
        self.services = [name for name in SERVICES if _obtainable(name)]

    def write_env(self, **changes: str) -> None:
        values = self.values | changes
        self.env_file.write_text("".join(f"{name}={value}\n" for name, value in values.items()))

    def compose(self, *words: str, check: bool = True, timeout_s: float = 600) -> subprocess.CompletedProcess[str]:
        """Run docker-compose on the project. Its environment is the file's alone."""
        return self._run([*self._program(), *words], ROOT, check=check, timeout_s=timeout_s)

    def type_in(self, script: str, folder: Path) -> None:
        """Run a script of the guide in a folder. Its docker-compose is the project's; `up -d` starts what can run here."""
        services = shlex.join(self.services)
        function = f"""
            docker-compose() {{
                if [ "$*" = "up -d" ]; then set -- up -d {services}; fi
                command {shlex.join(self._program())} --project-directory {ROOT} --file {ROOT}/docker-compose.yml "$@"
            }}"""
        self._run(["bash", "-euo", "pipefail", "-c", f"{function}\n{script}"], folder)

    def _program(self) -> list[str]:
        program = compose_program()
        assert program is not None
        return [*program, "--project-name", self.project, "--env-file", str(self.env_file)]

    def _run(
        self, command: list[str], folder: Path, *, check: bool = True, timeout_s: float = 600
    ) -> subprocess.CompletedProcess[str]:
        kept = ("PATH", "HOME", "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "TORCH_INDEX_URL", "TORCH_VARIANT")
        environment = {name: os.environ[name] for name in kept if name in os.environ}
        answer = subprocess.run(
            command, check=False, capture_output=True, text=True, cwd=folder, env=environment, timeout=timeout_s
        )
        assert answer.returncode == 0 or not check, f"{command}: {answer.stdout[-4000:]}{answer.stderr[-4000:]}"
        return answer

    def build(self) -> None:
        self.compose("build", "api", "worker", timeout_s=3600)

    def up(self) -> None:
        """Start everything, wait until each container that can say so is healthy, and make a key."""
        self.compose("up", "--no-start", *self.services)
        for volume, owner in OWNERS.items():  # the real images bring these folders along, owned like this
            image = self.inspect("redis")["Config"]["Image"]
            mount = f"{self.project}_{volume}:/volume"
            docker("run", "--rm", "--user", "0", "--volume", mount, "--entrypoint", "chown", image, owner, "/volume")
        self.compose("up", "--detach", *self.services)
        self.wait_healthy(*self.services)
        self.key = self.make_key()["key"]

    def make_key(self) -> dict[str, Any]:
        words = ["python", "-m", "shared.keys", "create", "--tenant", "shop", "--scopes", "generate,admin", "--json"]
        return json.loads(self.compose("run", "--rm", "-T", "api", *words).stdout.splitlines()[-1])

    def down(self) -> None:
        self.compose("down", "--volumes", "--timeout", "5", check=False)

    def wait_healthy(self, *services: str) -> None:
        for service in services:
            until(
                lambda name=service: self.state(name) in ("healthy", "running without a check"), START_S, what=service
            )

    def state(self, service: str) -> str:
        state = self.inspect(service)["State"]
        if state["Status"] != "running":
            return str(state["Status"])
        return str(state["Health"]["Status"]) if state.get("Health") else "running without a check"

    def container(self, service: str) -> str:
        """The id of a service's container, also of one that has stopped."""
        label = f"label=com.docker.compose.project={self.project}"
        one = (
            "--filter",
            f"label=com.docker.compose.service={service}",
            "--filter",
            "label=com.docker.compose.oneoff=False",
        )
        found = docker("ps", "--all", "--quiet", "--no-trunc", "--filter", label, *one).split()
        assert len(found) == 1, f"{service}: {found}"
        return found[0]

    def inspect(self, service: str) -> dict[str, Any]:
        return json.loads(docker("inspect", self.container(service)))[0]

    def execute(self, service: str, *words: str, check: bool = True) -> str:
        return docker("exec", self.container(service), *words, check=check)

    def log(self, service: str) -> str:
        return docker("logs", "--tail", "40", self.container(service))

    @contextmanager
    def receiver(self) -> Iterator[str]:
        """A program in a container beside the courier that prints the webhooks it gets. Yields its container."""
        image = self.inspect("api")["Config"]["Image"]
        network = ("--network", f"{self.project}_monitoring", "--network-alias", RECEIVER)
        container = docker("run", "--detach", "--init", *network, image, "python", "-c", RECEIVE)
        try:
            yield container
        finally:
            docker("rm", "--force", container)

    # --- over HTTP

    def http(self) -> httpx.Client:
        url = f"http://127.0.0.1:{self.ports['api']}"
        return httpx.Client(base_url=url, headers={"X-API-Key": self.key}, timeout=90)

    def submit_many(self, count: int, **fields: Any) -> list[str]:
        """Submit as many jobs as one batch. Returns their ids."""
        prompts = [f"number {n}, a grey wool hat" for n in range(count)]
        with self.http() as http:
            answer = http.post(
                "/api/generate_batch", json={"prompts": prompts, "mode": "ecommerce", "cache": False, **fields}
            )
            assert answer.status_code == 202, answer.text
            return [job["id"] for job in http.get(f"/api/batches/{answer.json()['id']}").json()["jobs"]]

    def jobs(self, ids: list[str]) -> list[dict[str, Any]]:
        with self.http() as http:
            return [http.get(f"/api/jobs/{job}").raise_for_status().json() for job in ids]

    def wait_ended(self, ids: list[str], patience_s: float = 180) -> list[dict[str, Any]]:
        """Wait until none is queued or running; over outages of the API too."""
        deadline = time.monotonic() + patience_s
        while True:
            try:
                jobs = self.jobs(ids)
            except httpx.HTTPError as error:
                jobs, trouble = [], repr(error)
            else:
                trouble = str([job["status"] for job in jobs])
            if jobs and all(job["status"] not in ("queued", "running") for job in jobs):
                return jobs
            assert time.monotonic() < deadline, trouble
            time.sleep(0.3)


def _obtainable(service: str) -> bool:
    """Whether the service can run here. Only Grafana may be missing: machines without a registry have no stand-in for it."""
    if service != "grafana":
        return True
    import yaml

    image = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"][service]["image"]
    known = subprocess.run(["docker", "image", "inspect", image], check=False, capture_output=True)
    return (
        known.returncode == 0
        or subprocess.run(["docker", "pull", "-q", image], check=False, capture_output=True).returncode == 0
    )
