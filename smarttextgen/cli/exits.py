"""Exit codes, and what a person is told when something went wrong."""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from smarttextgen.errors import (
    APIError,
    AuthenticationError,
    ConfigurationError,
    ConflictError,
    ConnectionFailedError,
    GoneError,
    InvalidRequestError,
    JobFailedError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    ServerError,
    SmartTextGenError,
    WaitTimeoutError,
)


class ExitCode(enum.IntEnum):
    """What the command line's exit codes mean."""

    OK = 0
    JOB_FAILED = 1  # also: the stack or the demo failed
    USAGE = 2  # also: the service refused the request as wrong
    NO_ACCESS = 3  # cannot reach the service, no valid key, key without the scope
    NOT_THERE = 4  # no such object, gone, or in a state that does not allow it
    TRY_LATER = 5  # rate limit, queue full, service unavailable or failing
    TIMED_OUT = 6  # the job goes on
    INTERRUPTED = 130


EXIT_CODES_HELP = (
    "Exit codes: 0 ok · 1 the job (or the stack) failed · 2 wrong usage or request · 3 cannot reach the service, or "
    "not authorised · 4 no such object, or in a state that does not allow it · 5 busy or unavailable, try later · "
    "6 --timeout is over, the job goes on · 130 interrupted"
)

_CODES: tuple[tuple[type[SmartTextGenError], ExitCode], ...] = (
    (JobFailedError, ExitCode.JOB_FAILED),
    (WaitTimeoutError, ExitCode.TIMED_OUT),
    (ConnectionFailedError, ExitCode.NO_ACCESS),
    (AuthenticationError, ExitCode.NO_ACCESS),
    (PermissionDeniedError, ExitCode.NO_ACCESS),
    (NotFoundError, ExitCode.NOT_THERE),
    (GoneError, ExitCode.NOT_THERE),
    (ConflictError, ExitCode.NOT_THERE),
    (RateLimitedError, ExitCode.TRY_LATER),
    (ServerError, ExitCode.TRY_LATER),
    (InvalidRequestError, ExitCode.USAGE),
    (ConfigurationError, ExitCode.USAGE),
)

_ADVICE: tuple[tuple[type[SmartTextGenError], str], ...] = (
    (ConnectionFailedError, "Is it running? Start one with `smarttextgen up`, or name another with --url."),
    (AuthenticationError, "Give a valid key with --api-key or SMARTTEXTGEN_API_KEY."),
    (PermissionDeniedError, "This needs a key with another scope."),
    (WaitTimeoutError, "The job goes on; `smarttextgen wait ID` waits for it again."),
)


def exit_code(error: SmartTextGenError) -> ExitCode:
    """The exit code for an error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.JOB_FAILED)


def explain(error: SmartTextGenError) -> str:
    """One or two sentences: what happened and what helps."""
    sentence = str(error).rstrip(".") + "."
    if isinstance(error, APIError):
        about = f" (field {error.param})" if error.param and error.param not in sentence else ""
        wait = f" Try again in {error.retry_after:g} s." if error.retry_after else ""
        sentence = f"{sentence[:-1]}{about}.{wait}"
    advice = next((text for kind, text in _ADVICE if isinstance(error, kind)), "")
    return f"{sentence} {advice}".rstrip()


@contextmanager
def told(as_json: bool = False, interrupted: str = "") -> Iterator[None]:
    """Turn an error of ours into a sentence (or JSON) on stderr and its exit code; ``interrupted`` goes with Ctrl-C.

    Raises: typer.Exit.
    """
    console = Console(stderr=True, highlight=False)
    try:
        yield
    except SmartTextGenError as error:
        if as_json:
            console.print(json.dumps({"error": _as_json(error)}, ensure_ascii=False), soft_wrap=True, markup=False)
        else:
            console.print(explain(error), style="red", soft_wrap=True, markup=False)
        raise typer.Exit(exit_code(error)) from error
    except KeyboardInterrupt:
        console.print(f"Interrupted. {interrupted}".rstrip(), style="yellow", soft_wrap=True, markup=False)
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def _as_json(error: SmartTextGenError) -> dict[str, object]:
    fields: dict[str, object] = {
        "type": type(error).__name__,
        "message": str(error),
        "exit_code": int(exit_code(error)),
    }
    if isinstance(error, APIError):
        fields |= {
            "status": error.status,
            "code": error.code,
            "param": error.param,
            "request_id": error.request_id,
            "retry_after": error.retry_after,
        }
    return fields
