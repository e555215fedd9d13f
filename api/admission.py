"""From a validated request to a job's specification: what only this deployment can say about it."""

from __future__ import annotations

from dataclasses import dataclass

from api.context import ContextGuard, require_known
from api.fleet import FleetView
from shared.errors import UnknownAdapterError
from shared.job import JobSpec, Priority
from shared.modes import Modes
from shared.schemas import GenerateRequest


@dataclass(frozen=True, slots=True)
class Admission:
    """Checks mode, model, adapter, tokens and context."""

    modes: Modes
    fleet: FleetView
    context: ContextGuard

    def spec(self, asked: GenerateRequest) -> JobSpec:
        """The specification of a job.

        Raises: UnknownModeError, UnknownModelError, UnknownAdapterError, ContextLengthError, ValidationFailedError (a token
        that the model does not have), StoreUnavailableError.
        """
        mode = self.modes[asked.mode]
        name = asked.model or self.fleet.default_model
        model = self.fleet.model(name)
        text, ids = (asked.prompt, ()) if isinstance(asked.prompt, str) else ("", tuple(asked.prompt))
        if ids:
            self.context.require_ids_fit(model, ids, asked.max_length)
        else:
            self.context.require_fit(model, mode.name, text, asked.max_length)
        bias = {int(token): float(value) for token, value in asked.logit_bias.items()}
        require_known(model, {f"logit_bias.{token}": token for token in bias})
        require_known(model, {f"stop_token_ids.{place}": token for place, token in enumerate(asked.stop_token_ids)})
        if model and asked.adapter and asked.adapter not in model.adapters:
            raise UnknownAdapterError("The model has no such adapter; see GET /api/models.", param="adapter")
        return JobSpec(
            prompt=text,
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
            min_p=float(asked.min_p),
            presence_penalty=float(asked.presence_penalty),
            frequency_penalty=float(asked.frequency_penalty),
            logit_bias=tuple(sorted(bias.items())),
            stop_token_ids=tuple(asked.stop_token_ids),
            min_tokens=asked.min_tokens,
            ignore_eos=asked.ignore_eos,
            logprobs=asked.logprobs,
            echo=asked.echo,
            prompt_token_ids=ids,
            structure=asked.response_format.structure() if asked.response_format else None,
            adapter=asked.adapter,
            priority=Priority(asked.priority),
            queue_timeout_s=asked.queue_timeout_s,
            execution_timeout_s=asked.execution_timeout_s,
            result_ttl_s=asked.result_ttl_s,
            cache=asked.cache,
            metadata=dict(asked.metadata),
            webhook=asked.webhook,
            webhook_events_filter=tuple(asked.webhook_events_filter) if asked.webhook else (),
        )
