"""Traces over processes, read from an exporter in memory; and that they cost nothing where nobody wants them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from shared.errors import ConfigurationError
from shared.settings import load_settings
from shared.spans import NoTraces
from shared.traces import traces_of

GIVEN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_without_an_endpoint_there_are_none():
    traces = traces_of(load_settings(), "test")
    assert isinstance(traces, NoTraces)
    span = traces.start("x", "server", GIVEN)
    assert span.traceparent == GIVEN
    span.end()


def test_without_an_endpoint_nothing_of_it_is_loaded():
    """By us: redis-py loads OpenTelemetry's metrics where they are installed."""
    code = (
        "import sys, api.wsgi; import worker.runner; "
        "sys.exit(any(m.startswith(('opentelemetry.exporter', 'shared.opentelemetry')) for m in sys.modules))"
    )
    environment = os.environ | {"REDIS_URL": "redis://127.0.0.1:1/0", "ENGINE": "echo"}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def test_an_endpoint_without_the_package_is_a_wrong_setting(monkeypatch: pytest.MonkeyPatch):
    for name in list(sys.modules):
        if name.startswith(("opentelemetry", "shared.opentelemetry")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ConfigurationError, match="otel"):
        traces_of(load_settings(otel_exporter_otlp_endpoint="http://127.0.0.1:1"), "test")
