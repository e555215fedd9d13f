"""The traces of a process, as its settings ask for."""

from __future__ import annotations

import importlib

from shared.errors import ConfigurationError
from shared.settings import Settings
from shared.spans import NoTraces, Traces


def traces_of(settings: Settings, process: str) -> Traces:
    """The traces of this process. To be made after a fork: sending is done by a thread.

    Raises: ConfigurationError where there is an endpoint, and the packages are not installed.
    """
    if not settings.otel_exporter_otlp_endpoint:
        return NoTraces()
    check_traces(settings)
    from shared.opentelemetry import to_collector  # noqa: PLC0415  # an extra

    return to_collector(settings.otel_exporter_otlp_endpoint, process, settings.environment)


def check_traces(settings: Settings) -> None:
    """Raises: ConfigurationError where there is an endpoint, and the packages are not installed."""
    if not settings.otel_exporter_otlp_endpoint:
        return
    try:
        importlib.import_module("shared.opentelemetry")  # an extra
    except ImportError as error:
        message = "OTEL_EXPORTER_OTLP_ENDPOINT: traces need the extra otel (pip install 'smarttextgen[otel]')."
        raise ConfigurationError(message) from error
