"""The whole platform with Prometheus beside it, on free ports of this machine, under our own configuration."""

from __future__ import annotations

import json
import shutil
import sys
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Self

import yaml

from tests.api.live import LiveApi
from tests.servers import Process, RedisServer, free_port, until

ROOT = Path(__file__).resolve().parents[2] / "monitoring" / "prometheus"
PROGRAMS = ("prometheus", "prometheus-redis-exporter")
WORKERS = 2
ECHO = {"ENGINE": "echo", "MODEL_NAME": "demo", "ECHO_TOKEN_DELAY_S": "0.005", "WEBHOOK_ALLOWLIST": "127.0.0.1/32"}
EVERY_S = 1


class WatchedStack:
    """Redis, the API, two workers, a courier, the Redis exporter and Prometheus, which scrapes and evaluates each second."""

    def __init__(self, redis: str, folder: Path) -> None:
        self.folder = folder
        self.redis = RedisServer(redis, folder, "--maxmemory", "512mb")
        self.ports = {name: free_port() for name in ("prometheus", "redis", "courier", *self.workers())}
        self.started: list[Process] = []
        self.api: LiveApi

    @staticmethod
    def workers() -> list[str]:
        return [f"worker{number}" for number in range(WORKERS)]

    def __enter__(self) -> Self:
        self.redis.start()
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        common = {**ECHO, "REDIS_URL": self.redis.url, "REDIS_PREFIX": "watched"}
        for name in (*self.workers(), "courier"):
            module = "worker" if name.startswith("worker") else "worker.courier"
            self._run(name, [sys.executable, "-m", module], {**common, "METRICS_PORT": str(self.ports[name])})
        exporter = ["prometheus-redis-exporter", f"--redis.addr={self.redis.url}"]
        self._run("exporter", [*exporter, f"--web.listen-address=127.0.0.1:{self.ports['redis']}"], {})
        self.api = LiveApi(
            self.redis.url,
            "watched",
            self.folder,
            **ECHO,
            METRICS_TENANTS="shop,bank",
            DEFAULT_REQUESTS_PER_MINUTE="1000000",
        )
        self.api.__enter__()
        self._run("prometheus", [
            "prometheus", f"--config.file={self._configuration()}", f"--storage.tsdb.path={self.folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{self.ports['prometheus']}",
        ], {})  # fmt: skip
        until(lambda: len(self.api.store.fleet().workers) == WORKERS, 60, what="workers")
        until(self._scraped, 60, what="all targets up")

    def _run(self, name: str, arguments: list[str], env: dict[str, str]) -> None:
        self.started.append(Process(arguments, self.folder / f"{name}.log", env))

    def _configuration(self) -> Path:
        """Ours, with these targets in place of compose's names, and a faster clock."""
        shutil.copytree(ROOT / "rules", self.folder / "rules")
        for path in (self.folder / "rules").iterdir():
            path.write_text(path.read_text().replace("interval: 15s", f"interval: {EVERY_S}s"))
        config = yaml.safe_load((ROOT / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": f"{EVERY_S}s", "evaluation_interval": f"{EVERY_S}s"}
        del config["alerting"]
        targets = {
            "api": [self.api.port],
            "worker": [self.ports[name] for name in self.workers()],
            "courier": [self.ports["courier"]],
            "redis": [self.ports["redis"]],
            "prometheus": [self.ports["prometheus"]],
        }
        jobs = {job["job_name"]: job for job in config["scrape_configs"]}
        assert targets.keys() <= jobs.keys()
        config["scrape_configs"] = []
        for name, ports in targets.items():
            job = {key: value for key, value in jobs[name].items() if not key.endswith("_sd_configs")}
            config["scrape_configs"].append(
                {**job, "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in ports]}]}
            )
        path = self.folder / "prometheus.yml"
        path.write_text(yaml.safe_dump(config))
        return path

    def _scraped(self) -> bool:
        for process in self.started:
            assert process.process.poll() is None, process.output()
        try:
            found = self.ask("query", query="sum(up)")["result"]
        except OSError:
            return False
        return bool(found) and float(found[0]["value"][1]) == 4 + WORKERS

    def ask(self, what: str, **parameters: Any) -> Any:
        """Prometheus' own API: ``data`` of its answer."""
        query = urllib.parse.urlencode(parameters)
        url = f"http://127.0.0.1:{self.ports['prometheus']}/api/v1/{what}?{query}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def __exit__(self, *_: object) -> None:
        for process in reversed(self.started):
            process.process.terminate()
        for process in self.started:
            process.wait(30)
        if hasattr(self, "api"):
            self.api.__exit__(None, None, None)
        self.redis.stop()
