"""The files in monitoring/, without a stack."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2] / "monitoring"
RUNBOOKS = ROOT.parent / "docs" / "operations.md"
ALERTS = [
    rule
    for group in yaml.safe_load((ROOT / "prometheus" / "rules" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
UNIT_TESTS = ROOT / "prometheus" / "tests" / "alerts_test.yml"


def tool(name: str) -> str:
    """A program of Prometheus. Skips where it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: prometheus, prometheus-alertmanager)")
    return found


def test_the_configuration_and_the_rules_are_valid():
    subprocess.run([tool("promtool"), "check", "config", str(ROOT / "prometheus" / "prometheus.yml")], check=True)


def test_each_alert_fires_and_does_not():
    subprocess.run([tool("promtool"), "test", "rules", str(UNIT_TESTS)], check=True)


def test_the_alertmanager_is_set_up():
    subprocess.run([tool("amtool"), "check-config", str(ROOT / "alertmanager" / "alertmanager.yml")], check=True)


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_each_alert_has_both_tests_and_a_runbook(rule: dict):
    tests = yaml.safe_load(UNIT_TESTS.read_text())["tests"]
    expected = {
        case["promql_expr_test"][0]["exp_samples"][0]["value"]
        for case in tests
        if f'"{rule["alert"]}"' in case["promql_expr_test"][0]["expr"]
    }
    assert expected == {0, 1}
    assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
    assert f"### {rule['alert']}\n" in RUNBOOKS.read_text()
    assert rule["labels"]["severity"] in {"page", "ticket"}


def test_no_runbook_is_left_over():
    headings = set(re.findall(r"^### (Textgen\w+)$", RUNBOOKS.read_text(), re.MULTILINE))
    assert headings == {rule["alert"] for rule in ALERTS}


def test_the_boards_are_those_that_the_script_makes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "grafana"))
    for name in ("boards", "build"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    spec = importlib.util.spec_from_file_location("grafana_build", ROOT / "grafana" / "build.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    folder = ROOT / "grafana" / "provisioning" / "dashboards"
    assert {path.stem for path in folder.glob("*.json")} == {board.uid for board in script.BOARDS}
    for board in script.BOARDS:
        assert (folder / f"{board.uid}.json").read_text() == script.build(board), "run monitoring/grafana/build.py"


def test_each_panel_says_what_it_shows_and_names_alerts_that_exist():
    names = {rule["alert"] for rule in ALERTS}
    for path in (ROOT / "grafana" / "provisioning" / "dashboards").glob("*.json"):
        for panel in json.loads(path.read_text())["panels"]:
            if panel["type"] != "row":
                assert panel["description"], panel["title"]
                assert set(re.findall(r"\((Textgen\w+)\)", panel["description"])) <= names
