"""Between a job and the engine: what it asks for, and what becomes of what it brought."""

from __future__ import annotations

from collections.abc import Sequence

from shared.job import Choice, JobSpec, JobStatus, Outcome, PromptEcho, Usage
from shared.logprobs import Place, TokenLogprob, pack
from shared.store.protocol import Stop
from worker.engine import protocol
from worker.engine.protocol import EngineResult, FinishReason, Grammar, SamplingParams
from worker.places import place_of
from worker.prompts import Prompt


def sampling_of(spec: JobSpec, prompt: Prompt) -> SamplingParams:
    """How the engine is to choose tokens for a job."""
    structure = protocol.Structure(Grammar(spec.structure.grammar), spec.structure.text) if spec.structure else None
    return SamplingParams(
        max_tokens=spec.max_length,
        temperature=spec.temperature,
        top_k=spec.top_k,
        top_p=spec.top_p,
        min_p=spec.min_p,
        repetition_penalty=spec.repetition_penalty,
        presence_penalty=spec.presence_penalty,
        frequency_penalty=spec.frequency_penalty,
        logit_bias=spec.logit_bias,
        seed=spec.seed,
        stop=prompt.stop,
        stop_token_ids=spec.stop_token_ids,
        min_tokens=min(spec.min_tokens, spec.max_length),
        n=spec.n,
        ignore_eos=spec.ignore_eos,
        logprobs=spec.logprobs,
        prompt_logprobs=spec.logprobs if prompt.echo is not None and spec.prompt_token_ids else None,
        structure=structure,
    )


def outcome_of(
    result: EngineResult, prompt: Prompt, key: str | None, stopped: Stop | None, system_fingerprint: str
) -> Outcome:
    """What a generation brought. Canceled or expired where any of its completions was stopped short."""
    choices = tuple(Choice(c.index, c.text, c.finish_reason.value, _packed(c.places)) for c in result.completions)
    canceled = any(c.finish_reason is FinishReason.CANCELED for c in result.completions)
    usage = Usage(result.usage.prompt_tokens, result.usage.completion_tokens, result.usage.cached_tokens)
    end = JobStatus.EXPIRED if stopped is Stop.EXPIRED else JobStatus.CANCELED
    return Outcome(
        end if canceled else JobStatus.SUCCEEDED,
        choices,
        usage,
        cache_key=None if canceled else key,
        system_fingerprint=system_fingerprint,
        echo=_echo(result, prompt),
    )


def _packed(places: Sequence[protocol.Place] | None) -> str | None:
    return pack([place_of(place) for place in places]) if places else None


def _echo(result: EngineResult, prompt: Prompt) -> PromptEcho | None:
    """The prompt as it stands before the answers. Nothing is said about its first token: the engine has no distribution there."""
    if prompt.echo is None:
        return None
    if result.prompt_places is None:
        return PromptEcho(prompt.echo)
    first = Place(TokenLogprob(prompt.ids[0], prompt.first, None))
    return PromptEcho(prompt.echo, pack([first, *map(place_of, result.prompt_places)]))
