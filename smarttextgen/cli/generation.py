"""The options that say how to generate, for the commands that submit."""

from __future__ import annotations

from typing import Annotated, Any, cast

import typer

from smarttextgen.types import GenerateOptions
from smarttextgen.wire import given

Mode = Annotated[str | None, typer.Option("--mode", help="general, recommendation, support, ecommerce, …")]
UserId = Annotated[str | None, typer.Option("--user-id", help="Whose conversation this goes on.")]
Model = Annotated[str | None, typer.Option("--model", help="The model, where the service runs several.")]
MaxLength = Annotated[int | None, typer.Option("--max-length", help="Most new tokens.")]
Temperature = Annotated[float | None, typer.Option("--temperature", help="0 always takes the likeliest token.")]
TopP = Annotated[float | None, typer.Option("--top-p", help="Sample from this share of the likeliest tokens.")]
TopK = Annotated[int | None, typer.Option("--top-k", help="Sample from so many of the likeliest tokens.")]
RepetitionPenalty = Annotated[float | None, typer.Option("--repetition-penalty", help="Over 1 repeats less.")]
Seed = Annotated[int | None, typer.Option("--seed", help="The same seed gives the same answer.")]
Stop = Annotated[list[str] | None, typer.Option("--stop", help="A text that ends the answer; may be given again.")]
Priority = Annotated[str | None, typer.Option("--priority", help="low, normal, high")]
Webhook = Annotated[str | None, typer.Option("--webhook", help="Report to this URL (see `smarttextgen webhooks`).")]
WebhookEvents = Annotated[
    str | None, typer.Option("--webhook-events", help="Comma-separated: job.started, job.succeeded, …")
]


def options(
    *, stop: list[str] | None = None, webhook_events: str | None = None, **named: str | float | None
) -> GenerateOptions:
    """What was given, as the client takes it."""
    return cast(
        "GenerateOptions", given({**named, "stop": stop or None, "webhook_events_filter": listed(webhook_events)})
    )


def listed(comma_separated: str | None) -> list[Any] | None:
    """The words of a comma-separated option; None where it was not given."""
    if comma_separated is None:
        return None
    return [word.strip() for word in comma_separated.split(",") if word.strip()]
