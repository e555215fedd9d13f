"""From a validated request to a job's specification: what only this deployment can say about it."""

from __future__ import annotations

from dataclasses import dataclass

from api.context import ContextGuard
from api.fleet import FleetView
from shared.job import JobSpec, Priority
from shared.modes import Modes
from shared.schemas import GenerateRequest


@dataclass(frozen=True, slots=True)
class Admission:
    """Checks mode, model and context."""

    modes: Modes
    fleet: FleetView
    context: ContextGuard

    def spec(self, asked: GenerateRequest) -> JobSpec:
        """The specification of a job.

        Raises: UnknownModeError, UnknownModelError, ContextLengthError, StoreUnavailableError.
        """
        mode = self.modes[asked.mode]
        name = asked.model or self.fleet.default_model
        model = self.fleet.model(name)
        self.context.require_fit(model, mode.name, asked.prompt, asked.max_length)
        return JobSpec(
            prompt=asked.prompt,
            mode=mode.name,
            model=name,
            user_id=asked.user_id,
            max_length=asked.max_length,
            temperature=float(asked.temperature),
            top_p=float(asked.top_p),
            top_k=asked.top_k,
            repetition_penalty=float(asked.repetition_penalty),
            seed=asked.seed,
            stop=tuple(asked.stop),
            n=asked.n,
            priority=Priority(asked.priority),
            queue_timeout_s=asked.queue_timeout_s,
            execution_timeout_s=asked.execution_timeout_s,
            result_ttl_s=asked.result_ttl_s,
            cache=asked.cache,
            metadata=dict(asked.metadata),
            webhook=asked.webhook,
            webhook_events_filter=tuple(asked.webhook_events_filter) if asked.webhook else (),
        )
