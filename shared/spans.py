"""Spans of OpenTelemetry, for those who installed the extra ``otel`` and named an endpoint. For everybody else each call
here does nothing, and the package is not imported.

A job is one trace, whoever works on it: the API's span is kept in the record as a ``traceparent`` (W3C Trace Context), and the
worker's and the courier's spans are its children.
"""

from __future__ import annotations

from typing import Literal, Protocol

Kind = Literal["server", "client", "internal", "consumer"]
Value = str | int | float | bool


class Span(Protocol):
    """Something that takes time. ``traceparent``: what names it to others; None where there is nothing to name."""

    traceparent: str | None

    def end(self, *, failed: bool = False, end_ms: int | None = None, **attributes: Value | None) -> None:
        """It is over, now or at a time (milliseconds since the epoch). None is no attribute."""
        ...


class Traces(Protocol):
    """Starts spans. Thread-safe."""

    def start(
        self, name: str, kind: Kind, parent: str | None, *, start_ms: int | None = None, **attributes: Value | None
    ) -> Span:
        """A span under ``parent`` (a traceparent), or the first of a new trace."""
        ...


class _NoSpan:
    def __init__(self, traceparent: str | None) -> None:
        self.traceparent = traceparent

    def end(self, *, failed: bool = False, end_ms: int | None = None, **attributes: Value | None) -> None:
        """Nothing was begun."""


class NoTraces:
    """Hands on what it is given."""

    def start(
        self, name: str, kind: Kind, parent: str | None, *, start_ms: int | None = None, **attributes: Value | None
    ) -> Span:
        del name, kind, start_ms, attributes
        return _NoSpan(parent)
