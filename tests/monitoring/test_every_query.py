"""Every query of every board, alert and recording rule against the real stack under load: none asks for what is not there."""

from __future__ import annotations

import http.server
import json
import math
import re
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from shared.keys import NewKey, RedisKeyStore
from shared.store.connection import key_prefix
from tests.monitoring.stack import PROGRAMS, WatchedStack
from tests.servers import until

ROOT = Path(__file__).resolve().parents[2] / "monitoring"
BOARDS = ROOT / "grafana" / "provisioning" / "dashboards"
VARIABLES = {"$__rate_interval": "15s", "$model_name": ".+", "$tenant": ".+"}
RULES = [
    rule
    for name in ("recording", "alerts")
    for group in yaml.safe_load((ROOT / "prometheus" / "rules" / f"{name}.yml").read_text())["groups"]
    for rule in group["rules"]
]
QUERIES = [
    (f"{path.stem}: {panel['title']} {target['refId']}", target["expr"])
    for path in sorted(BOARDS.glob("*.json"))
    for panel in json.loads(path.read_text())["panels"]
    for target in panel.get("targets", ())
]
METRIC = re.compile(r"\b((?:textgen|vllm|http|redis|process)[_:][a-zA-Z0-9_:]+|up)\b")
LOAD_S = 12.0


class Receiver(http.server.BaseHTTPRequestHandler):
    """Takes webhooks; refuses the first one."""

    refused = False

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200 if Receiver.refused else 500)
        Receiver.refused = True
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture(scope="module")
def stack(redis_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedStack]:
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (Debian: prometheus, prometheus-redis-exporter)")
    with WatchedStack(redis_binary, tmp_path_factory.mktemp("watched")) as stack:
        receiver = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
        threading.Thread(target=receiver.serve_forever, daemon=True).start()
        load(stack, f"http://127.0.0.1:{receiver.server_port}/")
        yield stack
        receiver.shutdown()
        receiver.server_close()


def load(stack: WatchedStack, webhook: str) -> None:
    """Jobs of every kind, for as long as rates need."""
    api = stack.api
    keys = RedisKeyStore(api.redis, key_prefix(api.settings))
    bank = keys.create(NewKey("bank"))[1]
    until_when = time.monotonic() + LOAD_S

    def busy(number: int) -> None:
        while time.monotonic() < until_when:
            wait = {"temperature": 0.0, "prompt": f"hello {number % 2}", "max_length": 20}
            api.call("POST", "/api/generate?wait=5", wait)  # the second time from the cache
            api.call(
                "POST", "/api/generate?wait=5", {"prompt": "of the bank", "max_length": 10, "n": 2}, X_API_Key=bank
            )
            api.call("POST", "/api/generate", {"prompt": "told", "max_length": 10, "webhook": webhook})
            api.call("POST", "/api/generate?wait=5", {"prompt": "x" * 8000, "max_length": 500})  # too long: fails
            long = api.call("POST", "/api/generate", {"prompt": "long", "max_length": 500}).json
            time.sleep(0.1)
            api.call("POST", f"/api/jobs/{long['id']}/cancel")
            streamed = api.call("POST", "/api/generate", {"prompt": "streamed", "max_length": 10}).json
            api.call("GET", streamed["urls"]["stream"])
            api.call("GET", "/api/jobs", X_API_Key="wrong")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(busy, range(4)))
    time.sleep(2)  # the last scrape and evaluation


def series(stack: WatchedStack, query: str) -> list[list[float]]:
    """The values of each series that a query has had since the start."""
    now = time.time()
    found = stack.ask("query_range", query=query, start=now - LOAD_S - 15, end=now, step=1)["result"]
    return [[float(value) for _, value in each["values"]] for each in found]


def has_data(stack: WatchedStack, query: str) -> bool:
    return any(math.isfinite(value) for values in series(stack, query) for value in values)


def filled(query: str) -> str:
    """With Grafana's variables in."""
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    assert "$" not in query, query
    return query


def test_the_look_for_data_can_fail(stack: WatchedStack):
    assert not has_data(stack, "sum(rate(textgen_no_such_thing_total[15s]))")
    assert not has_data(stack, 'textgen_jobs_waiting{model_name="nobody"}')


def test_every_panel_has_data(stack: WatchedStack):
    assert len(QUERIES) > 60
    assert [name for name, query in QUERIES if not has_data(stack, filled(query))] == []


def test_every_recording_rule_has_data(stack: WatchedStack):
    names = [rule["record"] for rule in RULES if "record" in rule]
    assert [name for name in names if not has_data(stack, name)] == []


def test_everything_that_an_alert_asks_for_is_there(stack: WatchedStack):
    asked = {(rule["alert"], name) for rule in RULES if "alert" in rule for name in METRIC.findall(rule["expr"])}
    assert len({alert for alert, _ in asked}) == sum("alert" in rule for rule in RULES)
    assert sorted(pair for pair in asked if not series(stack, pair[1])) == []


def test_every_rule_is_evaluated_without_an_error(stack: WatchedStack):
    rules = [rule for group in stack.ask("rules")["groups"] for rule in group["rules"]]
    assert len(rules) == len(RULES)
    assert [rule["name"] for rule in rules if rule["health"] != "ok"] == []


@pytest.mark.parametrize("name", ["api", "worker0", "worker1", "courier"])
def test_every_log_line_is_json_and_names_what_it_is_about(stack: WatchedStack, name: str):
    text = (stack.folder / f"{name}.log").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert {line["process"] for line in lines} == {name.rstrip("01")}
    about = {"api": "request", "courier": "webhook"}.get(name, "job ended")
    events = [line for line in lines if line["event"] == about]
    assert events
    if name == "api":
        events = [line for line in events if line["route"] == "/api/generate" and line["status"] in (200, 202)]
    wanted = {"request_id", "tenant", "job_id", *(() if name == "api" else ("attempt",))}
    assert [event for event in events if not wanted <= event.keys()] == []
    assert "of the bank" not in text


def test_labels_are_few(stack: WatchedStack):
    """No job, user, key or prompt is a label, so their number does not grow with the load."""
    counts = {row["name"]: row["value"] for row in stack.ask("status/tsdb")["labelValueCountByLabelName"]}
    names = set(stack.ask("labels"))
    assert not names & {"job_id", "user_id", "key_id", "request_id", "prompt", "path"}
    assert counts["handler"] < 60


def test_an_alert_fires_on_a_real_fault(stack: WatchedStack):
    """The metrics of a Redis that is away are what the alert's unit test feeds it."""
    stack.redis.kill()
    until(lambda: series(stack, "max(textgen_redis_up) == 0"), 30, what="textgen_redis_up 0")
    until(
        lambda: [a for a in stack.ask("alerts")["alerts"] if a["labels"]["alertname"] == "TextgenRedisAway"], 15,
        what="the alert pending",
    )  # fmt: skip
    stack.redis.start()
    until(lambda: series(stack, "max(textgen_redis_up) == 1"), 30)
