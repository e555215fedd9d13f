"""What a person (or a program) sees of a stack: its start, its address, its troubles, its end."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import IO, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from smarttextgen.launcher.errors import PartFailedError
from smarttextgen.launcher.info import StackInfo
from smarttextgen.launcher.parts import Event, PartState
from smarttextgen.launcher.process import Part
from smarttextgen.launcher.redis_server import without_secret
from smarttextgen.launcher.steady_output import steady

STYLES = {
    PartState.WAITING: "dim",
    PartState.STARTING: "yellow",
    PartState.READY: "green",
    PartState.RESTARTING: "red",
    PartState.STOPPING: "yellow",
    PartState.STOPPED: "dim",
}
ENDING = (PartState.STOPPING, PartState.STOPPED)


class Display(Protocol):
    """Hears what happens to a stack. Never raises, also when nobody reads any more."""

    def starting(self, parts: Sequence[Part]) -> AbstractContextManager[None]:
        """Shown while the stack comes up."""

    def event(self, event: Event) -> None:
        """A part changed its state."""

    def ready(self, info: StackInfo) -> None:
        """Everything is up."""

    def failed(self, error: Exception) -> None:
        """The stack ends, and this is why."""

    def stopping(self) -> None:
        """The end begins."""

    def stopped(self) -> None:
        """Every process has ended."""


class TerminalDisplay:
    """For people: a live table where there is a terminal, else a line for each thing that happens."""

    def __init__(self, console: Console, *, brief: bool = False) -> None:
        """``brief`` leaves out the panel with addresses and keys, and each part's end (for the demo)."""
        self._console = console
        console.file = steady(console.file)
        self._brief = brief
        self._table_shown = False

    @contextmanager
    def starting(self, parts: Sequence[Part]) -> Iterator[None]:
        if not self._console.is_terminal:
            yield
            return
        with Live(get_renderable=lambda: _parts_table(parts), console=self._console, refresh_per_second=8):
            self._table_shown = True
            try:
                yield
            finally:
                self._table_shown = False

    def event(self, event: Event) -> None:
        if event.state is PartState.RESTARTING:
            self._console.print(Text(event.detail, style="red"))
            self._print_log(event.last_lines)
        elif not self._table_shown and not (self._brief and event.state in ENDING and not event.detail):
            detail = f" ({event.detail})" if event.detail else ""
            self._console.print(Text(f"{event.part}: {event.state}{detail}", style=STYLES[event.state]))

    def ready(self, info: StackInfo) -> None:
        if self._brief:
            self._console.print(Text(f"SmartTextGen is up at {info.url}", style="green"))
            return
        self._console.print(Panel(Group(*_facts(info)), title="SmartTextGen is up", border_style="green", expand=False))
        self._console.print("Try it:")
        self._console.print(_curl(info), soft_wrap=True, highlight=False, markup=False)
        self._console.print("Stop it: Ctrl-C (a second Ctrl-C ends everything at once).")

    def failed(self, error: Exception) -> None:
        self._console.print(Text(str(error), style="bold red"))
        if isinstance(error, PartFailedError):
            if error.last_lines:
                self._console.print(Text(f"The last lines of {error.part}'s log:", style="red"))
            self._print_log(error.last_lines)

    def stopping(self) -> None:
        self._console.print(Text("Stopping …", style="yellow"))

    def stopped(self) -> None:
        self._console.print(Text("Stopped. No process of the stack is left.", style="green"))

    def _print_log(self, lines: Sequence[str]) -> None:
        for line in lines:
            self._console.print(Text(f"  │ {line}", style="dim"), soft_wrap=True)


class JsonLinesDisplay:
    """For programs: one JSON object a line."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = steady(stream)

    def starting(self, parts: Sequence[Part]) -> AbstractContextManager[None]:  # noqa: ARG002  its events say it all
        return nullcontext()

    def event(self, event: Event) -> None:
        self._write(
            "part", part=event.part, state=event.state.value, detail=event.detail, last_lines=list(event.last_lines)
        )

    def ready(self, info: StackInfo) -> None:
        self._write("ready", **info.as_json())

    def failed(self, error: Exception) -> None:
        last_lines = list(error.last_lines) if isinstance(error, PartFailedError) else []
        self._write("failed", message=str(error), last_lines=last_lines)

    def stopping(self) -> None:
        self._write("stopping")

    def stopped(self) -> None:
        self._write("stopped")

    def _write(self, event: str, **fields: object) -> None:
        self._stream.write(json.dumps({"event": event, **fields}, ensure_ascii=False) + "\n")
        self._stream.flush()


def _parts_table(parts: Sequence[Part]) -> Table:
    table = Table.grid(padding=(0, 2))
    for part in parts:
        busy = part.state in (PartState.STARTING, PartState.RESTARTING)
        mark = Spinner("dots", style="yellow") if busy else Text("✓" if part.state is PartState.READY else "·")
        took = f"{part.ready_after_s:.1f} s" if part.state is PartState.READY else ""
        table.add_row(mark, part.spec.name, Text(part.state, style=STYLES[part.state]), Text(took, style="dim"))
    return table


def _facts(info: StackInfo) -> Iterator[Text]:
    rows = {
        "URL": info.url,
        "API key": info.api_key,
        "Console": f"{info.url}/",
        "Docs": f"{info.url}/apidocs",
        "Flower": f"{info.flower_url}  (user {info.flower_user}, password {info.flower_password})",
        "Redis": without_secret(info.redis_url),
        "Data, logs": info.data_dir,
    }
    for name, value in rows.items():
        yield Text.assemble((f"{name:<11}", "bold"), value)


def _curl(info: StackInfo) -> str:
    body = json.dumps({"prompt": "What should I know before a day hike?", "mode": "general"})
    return (
        f"curl -s '{info.url}/api/generate?wait=30' -H 'X-API-Key: {info.api_key}' "
        f"-H 'Content-Type: application/json' -d '{body}'"
    )
