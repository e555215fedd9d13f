"""The composition root of a stack: from what was asked for to the parts that the supervisor runs."""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from smarttextgen.launcher import ports, redis_server
from smarttextgen.launcher.data_dir import DataDir
from smarttextgen.launcher.health import Probes
from smarttextgen.launcher.parts import Command, Kind, PartSpec, Patience
from smarttextgen.launcher.programs import PACKAGE_ROOT, Programs, model_environment, python_environment
from smarttextgen.launcher.redis_server import RedisAddress

ACTIVATION = str(Path(__file__).with_name("socket_activation.py"))
FLOWER_USER = "flower"
LOOPBACK = "127.0.0.0/8,::1,localhost"
COURIER_LINGERS_S = 6.0  # a little over the time that one which is gone still counts
API_GRACE_S = 35.0  # a little over gunicorn's own, which ends requests that are under way


@dataclass(frozen=True)
class StackOptions:
    """What a person may choose. ``port`` 0: 8000 where it is free, else a free one."""

    data_dir: Path
    port: int = 0
    workers: int = 1
    engine: str | None = None
    model: str | None = None
    redis_url: str | None = None
    ready_file: Path | None = None
    start_timeout_s: float = 600.0
    programs: Programs = field(default_factory=Programs)
    patience: Patience = field(default_factory=Patience)


class Stack:
    """The specs of one stack and the addresses they share. Holds the API's listening socket until ``close``.

    Raises: PortTakenError, ProgramMissingError.
    """

    def __init__(self, options: StackOptions, data_dir: DataDir) -> None:
        self._options = options
        self._data_dir = data_dir
        self.probes = Probes()
        self._redis_program = () if options.redis_url else options.programs.redis or (redis_server.find_program(),)
        self._redis_password = secrets.token_urlsafe(24)
        self._redis_port = ports.PickedPort()
        self._flower_port = ports.PickedPort()
        self.flower_password = secrets.token_urlsafe(12)
        self.api_host = os.environ.get("API_HOST") or "127.0.0.1"
        self._listener = ports.listen(self.api_host, options.port)
        self.api_port: int = self._listener.getsockname()[1]

    @property
    def url(self) -> str:
        """Where this machine reaches the API."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.api_host, self.api_host)  # noqa: S104  compared, not bound
        return f"http://{host}:{self.api_port}"

    @property
    def redis_url(self) -> str:
        return self._options.redis_url or RedisAddress(self._redis_port.number, self._redis_password).url

    @property
    def flower_url(self) -> str:
        return f"http://127.0.0.1:{self._flower_port.number}"

    def specs(self) -> tuple[PartSpec, ...]:
        """The parts, in the order in which people read them."""
        workers = tuple(self._worker(number) for number in range(1, self._options.workers + 1))
        redis = () if self._options.redis_url else (self._redis(),)
        return (*redis, *workers, self._courier(), self._api(), self._flower())

    def environment(self) -> Mapping[str, str]:
        """What every process of ours gets on top of the launcher's own environment."""
        return {**python_environment(), "REDIS_URL": self.redis_url, "REDIS_SENTINELS": ""}

    def close_port(self) -> None:
        """Let go of the API's port: from now on it is only open for as long as the API itself is."""
        self._listener.close()

    def close(self) -> None:
        """Let go of everything."""
        self.close_port()
        self.probes.close()

    def _redis(self) -> PartSpec:
        def command() -> Command:
            address = RedisAddress(self._redis_port.pick(), self._redis_password)
            redis_server.write_configuration(self._data_dir.redis_configuration, address, self._data_dir.redis)
            return Command((*self._redis_program, str(self._data_dir.redis_configuration)))

        return PartSpec("redis", Kind.REDIS, command, self._redis_is_ready, stop_grace_s=30.0)

    def _redis_is_ready(self) -> bool:
        return self._redis_port.settle(redis_server.answers(self.redis_url))

    def _worker(self, number: int) -> PartSpec:
        unique = f"{socket.gethostname()}-{os.getpid()}-{number}"  # several stacks may share one Redis

        def command() -> Command:
            return self._python(self._options.programs.worker, {"WORKER_NAME": unique})

        return PartSpec(
            f"worker-{number}",
            Kind.WORKER,
            command,
            lambda: self.probes.ready_workers(self.url) >= self._options.workers,
            needs=(Kind.REDIS,),
            start_timeout_s=self._options.start_timeout_s,
            stop_grace_s=_seconds("WORKER_DRAIN_S", 30.0) + 10.0,
            lingers_s=_seconds("WORKER_LEASE_S", 4.0) + 1.0,
        )

    def _courier(self) -> PartSpec:
        return PartSpec(
            "courier",
            Kind.COURIER,
            lambda: self._python(self._options.programs.courier, {}),
            lambda: self.probes.couriers(self.url) > 0,
            needs=(Kind.REDIS,),
            lingers_s=COURIER_LINGERS_S,
        )

    def _api(self) -> PartSpec:
        def command() -> Command:
            descriptor = self._listener.fileno()
            argv = (sys.executable, "-I", "-S", ACTIVATION, str(descriptor), *self._options.programs.api)
            return self._python(argv, {"API_HOST": self.api_host, "API_PORT": str(self.api_port)}, (descriptor,))

        return PartSpec("api", Kind.API, command, self._api_is_ready, needs=(Kind.REDIS,), stop_grace_s=API_GRACE_S)

    def _api_is_ready(self) -> bool:
        return self.probes.ok(f"{self.url}/readyz")

    def _flower(self) -> PartSpec:
        def command() -> Command:
            env = {  # in the environment, not on the command line, where every user of the machine can read it
                "CELERY_BROKER_URL": self.redis_url,
                "FLOWER_BASIC_AUTH": f"{FLOWER_USER}:{self.flower_password}",
            }
            address = ("--address=127.0.0.1", f"--port={self._flower_port.pick()}")
            return self._python((*self._options.programs.flower, *address), env)

        return PartSpec("flower", Kind.FLOWER, command, self._flower_is_ready, needs=(Kind.REDIS,), stop_grace_s=5.0)

    def _flower_is_ready(self) -> bool:
        return self._flower_port.settle(self.probes.ok(f"{self.flower_url}/healthcheck"))

    def _python(self, argv: tuple[str, ...], env: Mapping[str, str], pass_fds: tuple[int, ...] = ()) -> Command:
        """A program of ours with its settings; API and workers must agree on all of them (/health names the model)."""
        settings = model_environment(self._options.engine, self._options.model)
        return Command(argv, {**self.environment(), **settings, **self._webhooks(), **env}, pass_fds, PACKAGE_ROOT)

    def _webhooks(self) -> Mapping[str, str]:
        """Where only this machine reaches the API, its webhooks may call this machine, so that they can be tried on it."""
        if "WEBHOOK_ALLOWLIST" in os.environ or not _is_loopback(self.api_host):
            return {}
        return {"WEBHOOK_ALLOWLIST": LOOPBACK}


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _seconds(variable: str, default: float) -> float:
    try:
        return float(os.environ.get(variable, default))
    except ValueError:
        return default  # the worker itself says what is wrong with it
