"""What a failed step means for the requests that were in it.

All of them begin again, for what the step may have spoilt nobody knows, and what they said stays said. Where memory was short, with
less in a step than before. Otherwise each is under suspicion until it has had a token again, and joins the batch only when no
other suspect is in it: so the next step that fails has one culprit, who fails, and the others go on.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.errors import EngineMemoryError, GenerationError
from worker.engine.scheduler import LEAST_TOKENS, Scheduler, StepPlan
from worker.engine.sequence import RowGroup

_MOST_BEGINNINGS = 3  # failed steps that a request may be in, whoever was to blame


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who fails, with what. ``eased``: nobody was to blame, the steps are smaller now."""

    convicted: tuple[RowGroup, ...]
    error: GenerationError
    eased: bool = False


def judge(scheduler: Scheduler, plan: StepPlan, error: Exception) -> Verdict:
    """Put the requests of the batch back into the line, after a step in which ``error`` was raised."""
    groups = scheduler.begin_again()
    if out_of_memory(error):
        memory = EngineMemoryError()
        memory.__cause__ = error
        if len(groups) > 1 or sum(chunk.end - chunk.start for chunk in plan.chunks) > LEAST_TOKENS:
            scheduler.ease()
            return Verdict((), memory, eased=True)
        return Verdict(tuple(groups), memory)
    suspects = [group for group in groups if group.suspect]
    alone = groups if len(groups) == 1 else suspects if len(suspects) == 1 else []
    for group in groups:
        group.suspect = True
        group.beginnings += 1
    tired = [group for group in groups if group.beginnings >= _MOST_BEGINNINGS]
    return Verdict(tuple(dict.fromkeys([*alone, *tired])), generation_error("The step failed", error))


def out_of_memory(error: BaseException) -> bool:
    """torch has a class for it on a GPU; on a CPU it raises a plain RuntimeError."""
    named = any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    return named or isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def generation_error(what: str, cause: BaseException) -> GenerationError:
    """What the caller may read of ``cause``: its kind, and not its text."""
    if isinstance(cause, GenerationError):
        return cause
    error = GenerationError(f"This generation failed. {what}: {type(cause).__name__}.")
    error.__cause__ = cause
    return error
