"""How the demo looks: a table that follows the jobs, then the answers by mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from smarttextgen.job_summary import STATUS_STYLES, describe
from smarttextgen.types import Job, Turn

PROMPT_WIDTH = 44


@dataclass
class Row:
    """One prompt of the demo, and its job once it is submitted."""

    mode: str
    prompt: str
    note: str = ""
    user_id: str | None = None
    must_be_cached: bool = False
    job: Job | None = None

    @property
    def title(self) -> str:
        return f"{self.mode}: {self.prompt}" + (f" ({self.note})" if self.note else "")

    @property
    def problem(self) -> str:
        """What is wrong with it, or nothing."""
        if self.job is None:
            return "was not submitted"
        if not self.job.succeeded:
            return f"{self.job.status} {self.job.error.message if self.job.error else ''}".rstrip()
        if not (self.job.output or "").strip():
            return "its answer is empty"
        return "was not served from the cache" if self.must_be_cached and not self.job.cached else ""

    def as_json(self) -> dict[str, object]:
        return {
            "mode": self.mode,
            "prompt": self.prompt,
            "note": self.note,
            "job": asdict(self.job) if self.job else None,
        }


class DemoDisplay:
    """A context that shows ``rows`` while their jobs run: a live table on a terminal, else a line for each change."""

    def __init__(self, console: Console, rows: Sequence[Row]) -> None:
        self._console = console
        self._rows = rows
        self._said: dict[int, str] = {}
        self._live = Live(get_renderable=self._table, console=console, refresh_per_second=8)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def changed(self, row: Row) -> None:
        """A row's job has another state (or the same)."""
        if self._console.is_terminal or row.job is None or self._said.get(id(row)) == row.job.status:
            return
        self._said[id(row)] = row.job.status
        self._console.print(Text(f"{row.job.status:<10}{row.title}  {describe(row.job)}".rstrip()), soft_wrap=True)

    def _table(self) -> Table:
        table = Table("mode", "prompt", "status", "", box=None, pad_edge=False, header_style="bold")
        for row in self._rows:
            prompt = Text(row.prompt, overflow="ellipsis", no_wrap=True)
            prompt.truncate(PROMPT_WIDTH, overflow="ellipsis")
            status = Text(row.job.status, STATUS_STYLES.get(row.job.status, "")) if row.job else Text("·", "dim")
            table.add_row(row.mode, prompt, status, Text(_remarks(row), style="dim"))
        return table


def _remarks(row: Row) -> str:
    return " · ".join(filter(None, (row.note, describe(row.job) if row.job else "")))


def print_answers(console: Console, rows: Sequence[Row]) -> None:
    """The answers by mode, each with its time and tokens per second."""
    modes = list(dict.fromkeys(row.mode for row in rows))
    for mode in modes:
        console.print(Rule(mode, align="left", style="cyan"))
        for row in (each for each in rows if each.mode == mode and each.job is not None):
            assert row.job is not None
            note = f"   ({row.note})" if row.note else ""
            console.print(Text.assemble((f"> {row.prompt}", "bold"), (note, "dim")), soft_wrap=True)
            console.print(_indented(Text((row.job.output or "—").strip())))
            console.print(_indented(Text(describe(row.job), style="dim")))
            console.print()


def print_conversation(console: Console, user_id: str, turns: Sequence[Turn]) -> None:
    """A conversation as the service remembers it."""
    console.print(Rule(f"the conversation of {user_id}, as the service remembers it", align="left", style="cyan"))
    for turn in turns:
        console.print(Text(f"> {turn.input}", style="bold"), soft_wrap=True)
        console.print(_indented(Text(turn.output.strip())))
    console.print()


def _indented(text: Text) -> Padding:
    return Padding(text, (0, 0, 0, 2), expand=False)
