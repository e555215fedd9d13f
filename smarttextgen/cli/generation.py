"""The options that say how to generate: written down once, for every command that submits."""

from __future__ import annotations

import functools
import inspect
import json
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec, cast

import typer

from smarttextgen.types import GenerateOptions
from smarttextgen.wire import given

P = ParamSpec("P")

TOKENS = "Choice of tokens"
ANSWER = "Form of the answer"


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What was given of these options; None (or nothing in a list) where it was not."""

    mode: Annotated[str | None, typer.Option(help="general, recommendation, support, ecommerce, …")] = None
    user_id: Annotated[str | None, typer.Option(help="Whose conversation this goes on.")] = None
    model: Annotated[str | None, typer.Option(help="The model, where the service runs several.")] = None
    adapter: Annotated[str | None, typer.Option(help="A LoRA adapter of the model.")] = None
    max_length: Annotated[int | None, typer.Option(help="Most new tokens.")] = None
    temperature: Annotated[float | None, typer.Option(help="0 always takes the likeliest token.")] = None
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None
    stop: Annotated[list[str] | None, typer.Option(help="A text that ends the answer; may be given again.")] = None
    n: Annotated[int | None, typer.Option(help="How many answers.")] = None
    priority: Annotated[str | None, typer.Option(help="low, normal, high")] = None
    webhook: Annotated[str | None, typer.Option(help="Report to this URL (see `smarttextgen webhooks`).")] = None
    webhook_events: Annotated[str | None, typer.Option(help="Comma-separated: job.started, job.succeeded, …")] = None
    top_p: Annotated[
        float | None, typer.Option(help="Sample from this share of the likeliest tokens.", rich_help_panel=TOKENS)
    ] = None
    top_k: Annotated[
        int | None, typer.Option(help="Sample from so many of the likeliest tokens.", rich_help_panel=TOKENS)
    ] = None
    min_p: Annotated[
        float | None, typer.Option(help="Leave out tokens below this share of the likeliest.", rich_help_panel=TOKENS)
    ] = None
    repetition_penalty: Annotated[float | None, typer.Option(help="Over 1 repeats less.", rich_help_panel=TOKENS)] = (
        None
    )
    presence_penalty: Annotated[
        float | None, typer.Option(help="Over 0 says less of what was said.", rich_help_panel=TOKENS)
    ] = None
    frequency_penalty: Annotated[
        float | None, typer.Option(help="Over 0 says less of what was said often.", rich_help_panel=TOKENS)
    ] = None
    logit_bias: Annotated[
        list[str] | None,
        typer.Option(metavar="ID=BIAS", help="Make a token likelier; may be given again.", rich_help_panel=TOKENS),
    ] = None
    stop_token_id: Annotated[
        list[int] | None, typer.Option(help="A token that ends the answer; may be given again.", rich_help_panel=TOKENS)
    ] = None
    min_tokens: Annotated[
        int | None, typer.Option(help="No end of text before so many tokens.", rich_help_panel=TOKENS)
    ] = None
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Go on to --max-length, for benchmarks.", rich_help_panel=TOKENS)
    ] = False
    logprobs: Annotated[
        int | None,
        typer.Option(
            help="Tell log-probabilities, and so many alternatives at each token (with --json).", rich_help_panel=ANSWER
        ),
    ] = None
    echo: Annotated[
        bool, typer.Option("--echo", help="The prompt stands before the answer.", rich_help_panel=ANSWER)
    ] = False
    json_schema: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The answer is JSON that matches this schema.", rich_help_panel=ANSWER,
            exists=True, dir_okay=False,
        ),
    ] = None  # fmt: skip
    json_object: Annotated[
        bool, typer.Option("--json-object", help="The answer is a JSON object.", rich_help_panel=ANSWER)
    ] = False
    regex: Annotated[
        str | None, typer.Option(help="The answer matches this regular expression.", rich_help_panel=ANSWER)
    ] = None

    def request(self) -> GenerateOptions:
        """As the client takes it. Raises: typer.BadParameter."""
        asked = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("webhook_events", "stop_token_id", "json_schema", "json_object", "regex"):
            del asked[name]
        asked |= {
            "stop": self.stop or None,
            "webhook_events_filter": listed(self.webhook_events),
            "logit_bias": _biases(self.logit_bias or []) or None,
            "stop_token_ids": self.stop_token_id or None,
            "ignore_eos": self.ignore_eos or None,
            "echo": self.echo or None,
            "response_format": self._format(),
        }
        return cast("GenerateOptions", given(asked))

    def _format(self) -> Mapping[str, Any] | None:
        formats: list[Mapping[str, Any]] = []
        if self.json_schema is not None:
            formats.append({"type": "json_schema", "json_schema": {"schema": _schema(self.json_schema)}})
        if self.json_object:
            formats.append({"type": "json_object"})
        if self.regex is not None:
            formats.append({"type": "regex", "regex": self.regex})
        if len(formats) > 1:
            raise typer.BadParameter("give one of --json-schema, --json-object and --regex", param_hint="--regex")
        return formats[0] if formats else None


def generates(command: Callable[Concatenate[Generation, P], None]) -> Callable[..., None]:
    """A command whose first parameter becomes an option for each field of ``Generation``, after its arguments."""
    first, *others = inspect.signature(command, eval_str=True).parameters.values()
    hints = typing.get_type_hints(Generation, include_extras=True)
    options = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(Generation)
    ]
    assert first.annotation is Generation
    parameters = [*options, *(each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in others)]

    @functools.wraps(command)
    def wrapper(**words: Any) -> None:
        asked = Generation(**{option.name: words.pop(option.name) for option in options})
        cast("Callable[..., None]", command)(asked, **words)

    # What typer looks at to learn what a command takes.
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # inspect reads it there
    wrapper.__annotations__ = {each.name: each.annotation for each in parameters}
    return wrapper


def _biases(pairs: list[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for pair in pairs:
        token, _, bias = pair.partition("=")
        try:
            found[str(int(token))] = float(bias)
        except ValueError:
            raise typer.BadParameter(
                f"{pair!r} is not ID=BIAS, such as 50256=-100", param_hint="--logit-bias"
            ) from None
    return found


def _schema(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise typer.BadParameter(f"{path} holds no JSON: {error}", param_hint="--json-schema") from None


def listed(comma_separated: str | None) -> list[Any] | None:
    """The words of a comma-separated option; None where it was not given."""
    if comma_separated is None:
        return None
    return [word.strip() for word in comma_separated.split(",") if word.strip()]
