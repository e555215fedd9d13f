"""The demo: jobs in every mode and both languages through the real API, a cached repeat, a conversation."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console

from smarttextgen.client import Client
from smarttextgen.errors import SmartTextGenError
from smarttextgen.launcher.demo_display import DemoDisplay, Row, print_answers, print_conversation
from smarttextgen.launcher.info import StackInfo
from smarttextgen.types import Turn

POLL_S = 0.25
INTERRUPTED = 130
CONVERSATION_USER = "demo-visitor"

PROMPTS: tuple[tuple[str, str], ...] = (
    ("general", "What should I know before a day hike?"),
    ("general", "第一次爬山要注意什麼？"),
    ("recommendation", "I like quiet walks near water."),
    ("recommendation", "請推薦一條適合親子的步道。"),
    ("support", "My parcel has not arrived yet."),
    ("support", "我的包裹還沒到。"),
    ("ecommerce", "wool hiking socks, grey"),
    ("ecommerce", "保溫瓶，500 毫升，藍色"),
)
CONVERSATION = ("Please suggest a short walk with a view.", "And one that is good with children?")


@dataclass(frozen=True)
class Outcome:
    """How the demo went: every row's job, the conversation as the service remembers it, and what was wrong."""

    rows: tuple[Row, ...]
    history: tuple[Turn, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        found = [f"{row.title}: {row.problem}" for row in self.rows if row.problem]
        if len(self.history) != len(CONVERSATION):
            found.append(f"the conversation has {len(self.history)} turns on record, not {len(CONVERSATION)}")
        return tuple(found)


class InterruptedDemo(Exception):  # noqa: N818  not an error: the person pressed Ctrl-C
    """The stack is ending."""


class Demo:
    """One tour. Progress and answers go to ``console``; with ``as_json`` the outcome goes to stdout as JSON."""

    def __init__(self, console: Console, *, as_json: bool = False) -> None:
        self._console = console
        self._as_json = as_json

    def run(self, info: StackInfo, stopping: Callable[[], bool]) -> int:
        """Take the tour. Returns 0 if every job succeeded with an answer, 1 if not, 130 if stopped early."""
        try:
            with Client(info.url, info.api_key) as client:
                outcome = self._tour(client, stopping)
        except InterruptedDemo:
            return INTERRUPTED
        except SmartTextGenError as error:
            self._console.print(f"The demo failed: {error}", style="bold red", markup=False)
            return 1
        self._report(outcome)
        return 1 if outcome.problems else 0

    def _tour(self, client: Client, stopping: Callable[[], bool]) -> Outcome:
        first = [Row(mode, prompt) for mode, prompt in PROMPTS]
        repeat = Row(*PROMPTS[0], note="asked again", must_be_cached=True)
        turns = [
            Row("recommendation", prompt, note=f"conversation, turn {number}", user_id=CONVERSATION_USER)
            for number, prompt in enumerate(CONVERSATION, start=1)
        ]
        with DemoDisplay(self._console, [*first, repeat, *turns]) as display:
            for together in (first, [repeat, turns[0]], [turns[1]]):  # a turn must see the one before it
                self._run(client, together, display, stopping)
        return Outcome((*first, repeat, *turns), client.history(CONVERSATION_USER))

    def _run(self, client: Client, rows: Sequence[Row], display: DemoDisplay, stopping: Callable[[], bool]) -> None:
        """Submit the rows and follow them until all have ended."""
        for row in rows:
            row.job = client.submit(row.prompt, mode=row.mode, user_id=row.user_id, temperature=0.0)
            display.changed(row)
        while waiting := [row for row in rows if row.job is not None and not row.job.ended]:
            if stopping():
                raise InterruptedDemo
            for row in waiting:
                assert row.job is not None
                row.job = client.get(row.job.id)
                display.changed(row)
            time.sleep(POLL_S)

    def _report(self, outcome: Outcome) -> None:
        if self._as_json:
            jobs = [row.as_json() for row in outcome.rows]
            history = [{"input": turn.input, "output": turn.output} for turn in outcome.history]
            document = {
                "ok": not outcome.problems,
                "problems": list(outcome.problems),
                "jobs": jobs,
                "history": history,
            }
            print(json.dumps(document, ensure_ascii=False, indent=2), file=sys.stdout, flush=True)
            return
        print_answers(self._console, outcome.rows)
        print_conversation(self._console, CONVERSATION_USER, outcome.history)
        for problem in outcome.problems:
            self._console.print(f"Not as it should be: {problem}", style="bold red", markup=False)
        if not outcome.problems:
            self._console.print(f"All {len(outcome.rows)} jobs succeeded.", style="bold green", highlight=False)
