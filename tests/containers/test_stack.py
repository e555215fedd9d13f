"""The composed stack for real: it answers, it is confined, and its parts may die."""

from __future__ import annotations

import json
import re
import time

import httpx
import pytest

from smarttextgen import Client
from tests.containers.stack import RECEIVER, RECEIVER_PORT, ROOT, SERVICES, Stack, docker
from tests.servers import until

pytestmark = [
    pytest.mark.containers,
    pytest.mark.timeout(3600),  # the first one builds the images
]

OURS = ("api", "worker", "courier", "flower")
PUBLISHED = {
    "api": "8000/tcp",
    "flower": "5555/tcp",
    "prometheus": "9090/tcp",
    "alertmanager": "9093/tcp",
    "grafana": "3000/tcp",
}


KILL = """
import os, pathlib
for folder in pathlib.Path("/proc").glob("[0-9]*"):
    if (folder / "cmdline").read_bytes().split(b"\\0")[1:3] == [b"-m", b"worker"]:
        os.kill(int(folder.name), 9)
"""  # what the engine would do with `docker kill` counts as a wish of the operator's, and it starts nothing again


@pytest.mark.parametrize("secret", ["REDIS_PASSWORD", "FLOWER_PASSWORD", "GRAFANA_PASSWORD"])
def test_it_refuses_to_start_without_a_secret(tmp_path, secret: str):
    stack = Stack(tmp_path)
    stack.write_env(**{secret: ""})
    refused = stack.compose("up", "--no-start", check=False)
    assert refused.returncode != 0
    assert f"Set {secret} in .env" in refused.stderr
    assert docker("ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={stack.project}") == ""


def test_a_job_is_submitted_and_its_answer_collected(stack: Stack):
    with Client(f"http://127.0.0.1:{stack.ports['api']}", api_key=stack.key) as client:
        job = client.generate("wool hiking socks, grey", mode="ecommerce", temperature=0)
    assert (job.status, bool(job.output.strip())) == ("succeeded", True)
    with stack.http() as http:
        health = http.get("/health").json()
    assert {name: health[name] for name in ("status", "model", "workers", "environment")} == {
        "status": "ok", "model": "demo", "workers": 1, "environment": "production",
    }  # fmt: skip


def test_an_answer_is_streamed_while_it_is_made_and_told_to_a_webhook(stack: Stack):
    with stack.receiver() as receiver, stack.http() as http:
        url = f"http://{RECEIVER}:{RECEIVER_PORT}/hook"
        body = {"prompt": "a grey wool hat", "mode": "ecommerce", "max_length": 200, "cache": False, "webhook": url}
        job = http.post("/api/generate", json=body).raise_for_status().json()
        events = []
        with http.stream("GET", job["urls"]["stream"]) as stream:
            for line in stream.iter_lines():
                name, _, value = line.partition(": ")
                if name == "event":
                    events.append([value, None])
                elif name == "data":
                    events[-1][1] = json.loads(value)
        assert [name for name, _ in events[:2]] == ["queued", "started"]
        assert events[-1][0] == "succeeded"
        told = "".join(data["delta"] for name, data in events if name == "output")
        assert told == events[-1][1]["output"] != ""
        until(lambda: docker("logs", receiver), what="the webhook")
        signature, _, payload = docker("logs", receiver).partition(" ")
        assert signature.startswith("v1,")
        told = json.loads(payload)
        assert (told["type"], told["data"]["id"]) == ("job.succeeded", job["id"])
        until(
            lambda: http.get(f"/api/jobs/{job['id']}").json()["webhook_status"] == "delivered",
            what="a delivery on record",
        )


def test_every_container_runs_as_nobody_of_importance_on_a_file_system_it_cannot_write(stack: Stack):
    for service in stack.services:
        container = stack.container(service)
        processes = docker("top", container, "-eo", "uid,pid,args").splitlines()[1:]
        ours = [line for line in processes if "docker-init" not in line]  # the engine's own, which hands signals on
        assert ours, service
        assert not [line for line in ours if line.split()[0] == "0"], (service, processes)
        settings = stack.inspect(service)
        assert settings["HostConfig"]["ReadonlyRootfs"], service
        assert settings["HostConfig"]["CapDrop"] == ["ALL"], service
        assert settings["HostConfig"]["Memory"] > 0, service
    for service in OURS:
        if service in stack.services:
            tried = stack.execute(service, "sh", "-c", "touch /app/x /opt/venv/x /x; echo $?", check=False)
            assert tried == "1", service


def test_only_the_api_and_the_pages_for_operators_are_published(stack: Stack):
    for service in stack.services:
        bindings = {port: hosts for port, hosts in stack.inspect(service)["NetworkSettings"]["Ports"].items() if hosts}
        assert set(bindings) == ({PUBLISHED[service]} if service in PUBLISHED else set()), service
        assert {host["HostIp"] for hosts in bindings.values() for host in hosts} <= {"127.0.0.1"}, service


def test_redis_has_no_way_out_and_wants_its_password(stack: Stack):
    (network,) = stack.inspect("redis")["NetworkSettings"]["Networks"]
    assert json.loads(docker("network", "inspect", network))[0]["Internal"] is True
    assert "NOAUTH" in stack.execute("redis", "redis-cli", "ping", check=False)
    for service in stack.services:  # nobody's command line shows it
        assert stack.passwords["redis"] not in docker("top", stack.container(service), "-eo", "pid,args"), service


def test_no_image_of_ours_holds_a_secret_or_what_is_not_needed(stack: Stack):
    for service in ("api", "worker"):
        image = stack.inspect(service)["Config"]["Image"]
        made = docker("history", "--no-trunc", image) + docker("image", "inspect", image)
        assert not [name for name, value in stack.passwords.items() if value in made]
        assert stack.execute(service, "sh", "-c", "ls -A /app").split() == sorted(
            ["api", "shared", "smarttextgen", "worker"] if service == "api" else ["models", "shared", "worker"]
        )
    light = "import importlib.util as i; print(i.find_spec('torch'), i.find_spec('pip'))"
    assert stack.execute("api", "/opt/venv/bin/python", "-c", light) == "None None"


def test_flower_is_behind_a_password_and_knows_jobs_by_their_ids(stack: Stack):
    (job,) = stack.submit_many(1)
    stack.wait_ended([job])
    address = f"http://127.0.0.1:{stack.ports['flower']}/flower"
    assert httpx.get(f"{address}/workers").status_code == 401
    login = ("flower", stack.passwords["flower"])
    until(lambda: httpx.get(f"{address}/task/{job}", auth=login).status_code == 200, what="the task's page")
    # It remembers over a restart.
    stack.compose("restart", "flower")
    stack.wait_healthy("flower")
    assert httpx.get(f"{address}/task/{job}", auth=login).status_code == 200


def test_prometheus_reaches_what_has_metrics(stack: Stack):
    def up() -> dict[str, str]:
        answer = httpx.get(f"http://127.0.0.1:{stack.ports['prometheus']}/api/v1/targets").json()
        return {target["labels"]["job"]: target["health"] for target in answer["data"]["activeTargets"]}

    wanted = {"prometheus", "alertmanager", "redis", "flower", "api", "worker", "courier"}
    until(lambda: {name for name, health in up().items() if health == "up"} >= wanted, 60, what="targets")


def test_a_worker_killed_at_work_is_started_again_and_its_jobs_end(stack: Stack):
    before = stack.inspect("worker")["RestartCount"]
    jobs = stack.submit_many(100, max_length=500)
    until(lambda: any(job["status"] == "running" for job in stack.jobs(jobs[:10])), what="a running job")
    stack.execute("worker", "python", "-c", KILL)
    ended = stack.wait_ended(jobs)
    assert {job["status"] for job in ended} == {"succeeded"}
    assert max(job["attempt"] for job in ended) > 1
    assert stack.inspect("worker")["RestartCount"] > before


def test_redis_starts_again_and_nothing_is_lost(stack: Stack):
    done = stack.submit_many(5)
    outputs = [job["output"] for job in stack.wait_ended(done)]
    waiting = stack.submit_many(100, max_length=300)
    stack.compose("restart", "redis")
    stack.wait_healthy("redis", "api")
    assert [job["output"] for job in stack.jobs(done)] == outputs
    assert {job["status"] for job in stack.wait_ended(waiting)} == {"succeeded"}


def test_a_worker_scaled_up_and_down_loses_nothing(stack: Stack):
    jobs = stack.submit_many(100, max_length=300)
    stack.compose("up", "--detach", "--no-deps", "--scale", "worker=2", "worker")
    with stack.http() as http:
        until(lambda: http.get("/health").json()["workers"] == 2, 120, what="two ready workers")
    stack.compose("up", "--detach", "--no-deps", "--scale", "worker=1", "worker")
    assert {job["status"] for job in stack.wait_ended(jobs)} == {"succeeded"}


def test_everything_stops_within_its_grace_and_starts_again_where_it_was(stack: Stack):
    jobs = stack.submit_many(100, max_length=500)
    began = time.monotonic()
    stack.compose("stop")
    took = time.monotonic() - began
    assert took < 75, took
    codes = {service: stack.inspect(service)["State"]["ExitCode"] for service in stack.services}
    assert {service for service, code in codes.items() if code == 137} == set(), codes  # 137: killed, its time was up
    assert {service: codes[service] for service in ("api", "worker", "redis")} == {"api": 0, "worker": 0, "redis": 0}
    stack.compose("start", *stack.services)
    stack.wait_healthy(*stack.services)
    assert {job["status"] for job in stack.wait_ended(jobs)} == {"succeeded"}


def test_redis_is_backed_up_and_restored_as_the_guide_says(stack: Stack, tmp_path):
    guide = (ROOT / "docs/deployment.md").read_text()
    back_up, restore = re.findall(r"```sh\n(.*?)```", guide[guide.index("Back up, while it runs") :], re.DOTALL)[:2]
    kept = stack.wait_ended(stack.submit_many(3))
    stack.type_in(back_up, tmp_path)
    (lost,) = stack.submit_many(1)
    stack.wait_ended([lost])
    stack.type_in(restore, tmp_path)
    stack.wait_healthy(*stack.services)
    assert [job["output"] for job in stack.jobs([job["id"] for job in kept])] == [job["output"] for job in kept]
    with stack.http() as http:
        assert http.get(f"/api/jobs/{lost}").status_code == 404


def test_the_services_are_all_there(stack: Stack):
    assert set(SERVICES) - set(stack.services) <= {"grafana"}
    assert {service: stack.state(service) for service in stack.services if service != "redis-exporter"} == {
        service: "healthy" for service in stack.services if service != "redis-exporter"
    }
