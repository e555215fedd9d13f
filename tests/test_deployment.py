"""docker-compose.yml, .env.example and the Dockerfiles say what docs/deployment.md promises. What needs an engine to be
seen is in tests/containers (`make test-containers`)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from shared.settings import Settings
from worker.lifecycle import IDLE_PATIENCE_S

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {name.upper(): field.default for name, field in Settings.model_fields.items()}
A_CONTAINERS_OWN = {"API_HOST", "API_PORT", "WORKER_NAME"}
SECRETS = {"REDIS_PASSWORD", "FLOWER_PASSWORD", "GRAFANA_PASSWORD"}
OPTIONAL_SECRETS = {"REDIS_SENTINEL_PASSWORD"}
UIS = {"flower", "prometheus", "alertmanager", "grafana"}
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict] = COMPOSE["services"]


def example() -> dict[str, str]:
    """Every variable of .env.example, commented out or not, with the value that stands there."""
    lines = re.findall(r"^#?([A-Z][A-Z0-9_]*)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert len(lines) == len(dict(lines)), "a variable stands there twice"
    return dict(lines)


def test_the_example_has_every_setting_and_every_variable_of_compose_and_nothing_else():
    compose = set(re.findall(r"(?<!\$)\$\{([A-Z0-9_]+)", COMPOSE_TEXT))
    assert set(example()) == set(SETTINGS) | compose | {"COMPOSE_PROFILES"}


def test_the_example_shows_the_defaults():
    own = {"REDIS_URL", "METRICS_PORT", "METRICS_HOST", "ENVIRONMENT", "MODEL_ID", "ENGINE_NATIVE_KERNELS_DIR"}
    other_in_containers = A_CONTAINERS_OWN | own
    wrong = {name for name in SETTINGS if name not in other_in_containers and example()[name] != shown(SETTINGS[name])}
    assert wrong == set()
    in_compose = dict(re.findall(r"(?<!\$)\$\{([A-Z0-9_]+):-([^}]*)\}", COMPOSE_TEXT))
    assert {name for name, default in in_compose.items() if example()[name] != default} == set()


def shown(default: object) -> str:
    if default is None or default == ():
        return ""
    return str(default).removesuffix(".0") if isinstance(default, float) else str(default)


def test_the_example_holds_no_secret_and_compose_has_no_default_for_one():
    assert {name: value for name, value in example().items() if name.endswith("PASSWORD")} == dict.fromkeys(
        SECRETS | OPTIONAL_SECRETS, ""
    )
    uses = re.findall(r"(?<!\$)\$\{([A-Z0-9_]*PASSWORD)([^}]*)\}", COMPOSE_TEXT)
    assert {name for name, _ in uses} == SECRETS
    assert [use for use in uses if not use[1].startswith(":?Set ")] == []


def test_api_and_workers_get_every_setting_in_the_same_way():
    assert set(COMPOSE["x-settings"]) == set(SETTINGS) - A_CONTAINERS_OWN
    for name in ("api", "worker", "worker-gpu", "courier"):
        assert SERVICES[name]["environment"] == COMPOSE["x-settings"], name
    assert COMPOSE["x-settings"]["METRICS_PORT"] == "9100"  # where prometheus.yml looks for workers and couriers


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_confined(name: str):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"
    assert service["logging"]["options"]["max-size"]
    assert service["mem_limit"]
    assert service["cpus"]
    assert service["pids_limit"]
    assert "privileged" not in service
    assert name == "dcgm-exporter" or "cap_add" not in service
    if "build" not in service and "smarttextgen" not in service["image"]:
        assert re.search(r":v?\d+\.\d+", service["image"]), "a tag that moves"
        assert name == "dcgm-exporter" or re.fullmatch(r"[1-9]\d*:\d+", service["user"])


def test_only_the_api_and_the_uis_publish_ports_and_the_uis_on_loopback():
    published = {name: service["ports"] for name, service in SERVICES.items() if service.get("ports")}
    assert set(published) == UIS | {"api"}
    assert all(port.startswith("127.0.0.1:") for name in UIS for port in published[name])
    assert [name for name, service in SERVICES.items() if "front" in service["networks"]] == ["api"]


def test_redis_is_on_a_network_without_a_way_out_and_on_no_other():
    assert SERVICES["redis"]["networks"] == ["back"]
    assert COMPOSE["networks"]["back"] == {"internal": True}
    talkers = {name for name, service in SERVICES.items() if "back" in service["networks"]}
    assert talkers == {"redis", "api", "worker", "worker-gpu", "courier", "flower", "redis-exporter"}


def test_a_worker_may_take_as_long_to_stop_as_it_needs():
    grace = int(example()["WORKER_STOP_GRACE"].removesuffix("s"))
    assert grace > SETTINGS["WORKER_DRAIN_S"] + IDLE_PATIENCE_S


def test_prometheus_asks_services_that_there_are():
    jobs = yaml.safe_load((ROOT / "monitoring/prometheus/prometheus.yml").read_text())["scrape_configs"]
    asked = {
        target.rsplit(":", 1)[0]
        for job in jobs
        for kind, key in (("static_configs", "targets"), ("dns_sd_configs", "names"))
        for config in job.get(kind, [])
        for target in config[key]
    }
    assert asked - {"localhost"} <= set(SERVICES)
    assert {"api", "worker", "worker-gpu", "courier", "flower", "redis-exporter"} <= asked


@pytest.mark.parametrize("name", ["Dockerfile.api", "Dockerfile.worker"])
def test_an_image_runs_as_nobody_of_importance_and_in_exec_form(name: str):
    text = (ROOT / name).read_text()
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert len(bases) > 1, "what builds is left behind"
    assert len(set(bases)) == 1
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+", bases[0])
    last = text[text.rindex("\nFROM ") :]
    assert "\nUSER 10001:10001\n" in last
    assert re.search(r"^CMD \[", last, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK .*\\\n\s+CMD \[", last, re.MULTILINE)
    assert not re.search(r"PASSWORD|SECRET|TOKEN|API_KEY", text)
