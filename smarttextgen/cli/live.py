"""Answers on the screen (or in a pipe) as they are written."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import closing

import typer
from rich.console import Console

from smarttextgen.cli.output import echo, plain, progress
from smarttextgen.client import Client
from smarttextgen.errors import GoneError, RateLimitedError, SmartTextGenError
from smarttextgen.events import Ended, Output, Queued, Restarted, StreamEvent
from smarttextgen.types import Job


class Typewriter:
    """Prints a text as it grows, though what is on paper stays there.

    After a restart in a pipe it waits until the new text has passed what was printed (the same seed writes the same), so
    that the pipe holds the answer once. Where the new text reads otherwise, ``say`` is told and all of it is printed.
    """

    def __init__(self, write: Callable[[str], None], say: Callable[[str], None]) -> None:
        self._write, self._say = write, say
        self._text = self._printed = ""

    def add(self, delta: str) -> None:
        self._text += delta
        if not self._printed.startswith(self._text):
            self._show()

    def restart(self, *, on_terminal: bool = False) -> None:
        """The text so far is void. On a terminal a person sees a fresh line begin."""
        self._text = ""
        if on_terminal and self._printed:
            self._write("\n")
            self._printed = ""

    def finish(self, text: str | None) -> None:
        """Whatever came: this is the answer. None: there is none."""
        if text is not None and text != self._printed:
            self._text = text
            self._show()
        if text is not None or self._printed:
            self._write("\n")

    def _show(self) -> None:
        if self._text.startswith(self._printed):
            self._write(self._text[len(self._printed) :])
        else:
            self._write("\n")
            self._say("The answer reads otherwise this time; here it is from its beginning.")
            self._write(self._text)
        self._printed = self._text


def follow(client: Client, job_id: str, timeout: float | None) -> Job:
    """Print a job's first choice while it is written; return the job once it has ended."""
    console = Console(stderr=True, highlight=False)

    def say(sentence: str) -> None:
        console.print(sentence, style="yellow", soft_wrap=True, markup=False)

    def write(text: str) -> None:
        echo(text, nl=False)

    paper = Typewriter(write, say)
    try:
        job = _type(client, job_id, timeout, paper, say)
    except (GoneError, RateLimitedError) as error:
        say(f"No stream: {error}. The answer comes when it is there.")
        job = client.wait(job_id, timeout)
    paper.finish(job.output)
    for choice in job.choices[1:]:
        echo(f"[{choice.index}] {choice.text}")
    return job


def _type(client: Client, job_id: str, timeout: float | None, paper: Typewriter, say: Callable[[str], None]) -> Job:
    with closing(client.stream(job_id, timeout=timeout)) as events:
        with progress(quiet=False) as on_update:
            event = next(events)
            while isinstance(event, Queued):  # the spinner goes before the first word comes
                if on_update is not None:
                    on_update(Job(job_id, queue_position=event.queue_position, eta_seconds=event.eta_seconds))
                event = next(events)
        while not isinstance(event, Ended):
            if isinstance(event, Restarted):
                paper.restart(on_terminal=sys.stdout.isatty())
                say(f"Its worker was lost; attempt {event.attempt} starts over.")
            elif isinstance(event, Output) and event.index == 0:
                paper.add(event.delta)
            event = next(events)
        return event.job


def follow_as_json(client: Client, job_id: str, timeout: float | None) -> Job:
    """Print a job's events, an object a line; return the job once it has ended."""
    with closing(client.stream(job_id, timeout=timeout)) as events:
        for event in events:
            typer.echo(json.dumps(_as_json(event), ensure_ascii=False))
            if isinstance(event, Ended):
                return event.job
    raise SmartTextGenError("A stream ends with the job's end")  # pragma: no cover


def _as_json(event: StreamEvent) -> dict[str, object]:
    fields = plain(event)
    assert isinstance(fields, dict)
    name = event.job.status if isinstance(event, Ended) else type(event).__name__.lower()
    return {"event": name, **fields}
