"""The manifests under deploy/kubernetes: valid by Kubernetes' own schemas, and as confined as docker-compose.yml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from shared.settings import Settings
from worker.lifecycle import IDLE_PATIENCE_S

FOLDER = Path(__file__).resolve().parent.parent / "deploy" / "kubernetes"
OTHERS = {"kustomize.config.k8s.io/v1beta1", "keda.sh/v1alpha1"}
"""Kinds that Kubernetes itself has no schema of."""
DOCUMENTS = [
    (path, document)
    for path in sorted(FOLDER.rglob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
    if document
]
BASE = {
    (d["kind"], d["metadata"]["name"]): d for path, d in DOCUMENTS if path.parent.name == "base" and "metadata" in d
}
WORKLOADS = [key for key in BASE if key[0] in {"Deployment", "StatefulSet"}]
OWN_WORKLOADS = [key for key in WORKLOADS if key[0] == "Deployment"]


def pod(key: tuple[str, str]) -> dict[str, Any]:
    return BASE[key]["spec"]["template"]["spec"]


@pytest.mark.parametrize(
    ("path", "document"),
    [pair for pair in DOCUMENTS if pair[1]["apiVersion"] not in OTHERS and pair[0].parent.name == "base"],
)
def test_it_is_valid(path: Path, document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, "1.31", strict=True)
    assert document["kind"] == "Namespace" or document["metadata"]["namespace"] == "smarttextgen", path


def test_every_file_is_part_of_a_kustomization() -> None:
    for path, document in DOCUMENTS:
        if document["kind"] == "Kustomization":
            named = {*document["resources"], *(patch.get("path", "") for patch in document.get("patches", ()))}
            files = {file.name for file in path.parent.glob("*.yaml")} - {path.name}
            assert files == {name for name in named if name.endswith(".yaml")}
            assert all((path.parent / name).exists() for name in named if name)


@pytest.mark.parametrize("key", WORKLOADS)
def test_pods_are_confined(key: tuple[str, str]) -> None:
    spec = pod(key)
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        assert container["resources"]["limits"]["memory"]
        assert "readinessProbe" in container
        inline = [env for env in container.get("env", ()) if "PASSWORD" in env["name"] and "value" in env]
        assert inline == [], "a secret comes from a Secret"


@pytest.mark.parametrize("key", OWN_WORKLOADS)
def test_ours_get_the_same_settings_and_may_be_disrupted_one_by_one(key: tuple[str, str]) -> None:
    spec = pod(key)
    assert spec["shareProcessNamespace"] is True  # another process is number 1
    (container,) = spec["containers"]
    assert container["envFrom"] == [{"configMapRef": {"name": "smarttextgen"}}]
    assert [env["name"] for env in container["env"]] == ["REDIS_PASSWORD", "REDIS_URL"]
    assert BASE["PodDisruptionBudget", key[1]]["spec"]["selector"]["matchLabels"] == {"app": key[1]}


def test_the_settings_exist_and_a_worker_has_the_time_that_it_takes() -> None:
    data = BASE["ConfigMap", "smarttextgen"]["data"]
    assert set(data) <= {name.upper() for name in Settings.model_fields}
    grace = pod(("Deployment", "worker"))["terminationGracePeriodSeconds"]
    assert grace >= float(data["WORKER_DRAIN_S"]) + IDLE_PATIENCE_S


def test_what_scales_the_workers_are_metrics_that_exist() -> None:
    (scaled,) = [d for _, d in DOCUMENTS if d["kind"] == "ScaledObject"]
    query = scaled["spec"]["triggers"][0]["metadata"]["query"]
    source = (FOLDER.parents[1] / "api" / "store_collector.py").read_text()
    for name in ("textgen_jobs_waiting", "textgen_jobs_running"):
        assert name in query
        assert f'"{name}"' in source
