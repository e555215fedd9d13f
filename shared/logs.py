"""Logs: one JSON object a line where a machine reads them, plain lines on a terminal. Prompts and answers are not logged.

What clients sent can be in a line (of a library's, of an error, or where LOG_PROMPTS is on). It can neither begin another
line nor tell a terminal anything: control characters are written as escapes.
"""

from __future__ import annotations

import io
import logging
import re
import sys
from collections.abc import Sequence
from typing import Any, TextIO

import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import Processor

from shared.settings import Settings

_SHARED: Sequence[Processor] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.ExtraAdder(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
)

_tracebacks = structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False))
"""Without local variables: they hold prompts, and at times passwords."""


_UNSAFE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Controls (all but the tab), what some readers take for the end of a line, what turns the direction of text, and halves of
characters, which have no UTF-8."""


def _visible(text: str) -> str:
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def _plain_text(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {name: _visible(value) if isinstance(value, str) else value for name, value in event.items()}


def _indented_traceback(out: TextIO, exc_info: Any) -> None:
    """An error's text may have lines of its own: indented, none passes for a log line."""
    whole = io.StringIO()
    structlog.dev.plain_traceback(whole, exc_info)
    out.write("".join(f"\n    {_visible(line)}" for line in whole.getvalue().split("\n")))


def _json_escapes(_logger: object, _method: str, line: Any) -> str:
    """JSON itself escapes the first 32 characters alone."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", line)


def configure_logging(settings: Settings, process: str) -> None:
    """Send every log line of this process (ours and the libraries') to standard error. ``process`` is on each."""
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    renderers: list[Processor] = (
        [_tracebacks, structlog.processors.JSONRenderer(ensure_ascii=False), _json_escapes]
        if as_json
        else [
            _plain_text,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_indented_traceback),
        ]
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_SHARED, _named(process)],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[*_SHARED, _named(process), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _named(process: str) -> Processor:
    def add_process(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["process"] = process
        return event

    return add_process
