"""``python -m worker.health``, as a container's health check runs it."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.servers import free_port, until


def check(settings, *kind: str, **env: str) -> tuple[int, str]:
    mine = {"REDIS_URL": settings.redis_url, "REDIS_PREFIX": settings.redis_prefix, "MODEL_NAME": "demo"}
    command = [sys.executable, "-m", "worker.health", *kind]
    answer = subprocess.run(
        command, check=False, capture_output=True, text=True, env=os.environ | mine | env, timeout=30
    )
    return answer.returncode, answer.stdout + answer.stderr


def test_healthy_is_a_worker_with_a_lease(settings, start_worker, ready):
    code, said = check(settings)
    assert code == 1
    assert said.startswith("No live worker on ")
    worker = start_worker(WORKER_NAME="ann")
    ready(worker)
    assert check(settings) == (0, "ann ready\n")
    worker.process.terminate()
    assert worker.wait(30) == 0
    assert check(settings)[0] == 1


def test_healthy_is_a_courier_that_looks_for_work(settings, start_worker):
    assert check(settings, "courier")[0] == 1
    courier = start_worker("worker.courier")
    until(lambda: check(settings, "courier")[0] == 0, what="a courier")
    assert check(settings)[0] == 1  # it is no worker
    courier.process.terminate()
    assert courier.wait(30) == 0
    assert check(settings, "courier")[0] == 1


def test_without_a_redis_or_with_a_wrong_setting_it_says_so(settings):
    code, said = check(settings, REDIS_URL=f"redis://127.0.0.1:{free_port()}/0")
    assert (code, "Traceback" in said) == (1, False)
    assert "Redis" in said
    code, said = check(settings, ENGINE_SLOTS="many")
    assert (code, "Traceback" in said) == (1, False)
    assert "ENGINE_SLOTS" in said
