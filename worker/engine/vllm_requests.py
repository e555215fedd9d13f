"""A request in vLLM's words, and vLLM's numbers in ours."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from vllm import SamplingParams as VllmSamplingParams
from vllm.exceptions import VLLMError
from vllm.inputs import tokens_input
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

from shared.errors import InvalidRequestError
from worker.engine.places import Chances
from worker.engine.protocol import EngineRequest, Grammar, SamplingParams, Structure

_SEEDS = 2**63
_LEAST_PENALTY = 1e-6  # vLLM divides by it in float32; the answer has long been the one with the seen tokens for ever


def vllm_prompt(request: EngineRequest) -> Any:
    """The tokens, under a salt: vLLM reuses what it computed of a prompt among those of one salt only. So a template of ours
    (``shared_tokens``) is computed once a scope and not once for all: a salt covers a prompt whole."""
    own = request.reuse_scope is None
    salt = f"request:{secrets.token_hex(16)}" if own else f"scope:{request.reuse_scope}"
    return tokens_input(list(request.prompt), cache_salt=salt)


def vllm_sampling(params: SamplingParams, index: int, end_tokens: frozenset[int], vocab_size: int) -> Any:
    """For completion ``index``. vLLM gets each completion as a request of its own: it refuses ``n`` over 1 where nothing is
    drawn. Text and stop strings are ours to make of the tokens, as in every engine.

    Raises: InvalidRequestError for what vLLM does not take.
    """
    try:
        return VllmSamplingParams(
            max_tokens=params.max_tokens,
            temperature=params.temperature,
            top_k=min(params.top_k, vocab_size),
            top_p=params.top_p,
            min_p=params.min_p,
            repetition_penalty=max(params.repetition_penalty, _LEAST_PENALTY),
            presence_penalty=params.presence_penalty,
            frequency_penalty=params.frequency_penalty,
            logit_bias=dict(params.logit_bias) or None,
            seed=None if params.seed is None else (params.seed + index) % _SEEDS,
            # All ends are told: what vLLM takes for the end of a text by itself are not always the same tokens.
            ignore_eos=True,
            stop_token_ids=sorted({*params.stop_token_ids, *(() if params.ignore_eos else end_tokens)}),
            min_tokens=params.min_tokens,
            logprobs=params.logprobs,
            prompt_logprobs=params.prompt_logprobs if index == 0 else None,
            structured_outputs=_structure(params.structure),
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            skip_clone=True,
        )
    except (VLLMError, ValueError) as error:
        raise refusal(error, params) from error


def refusal(error: Exception, params: SamplingParams) -> InvalidRequestError:
    """What vLLM says against a request, as ours. Where it names no parameter it is the structure, if there is one."""
    param = getattr(error, "parameter", None) or (None if params.structure is None else "structure")
    return InvalidRequestError(str(error.args[0]) if error.args else str(error), param=param)


def _structure(structure: Structure | None) -> Any:
    if structure is None:
        return None
    if structure.grammar is Grammar.REGEX:
        return StructuredOutputsParams(regex=structure.text)
    return StructuredOutputsParams(json=structure.text)


def chances(logprobs: Sequence[Mapping[int, Any] | None], count: int) -> list[Chances]:
    """vLLM's log-probabilities of a run of tokens as ours, with the ``count`` best. The chosen one is each mapping's first; the
    first token of a prompt has none."""
    return [_chances(entry, count) for entry in logprobs if entry]


def _chances(entry: Mapping[int, Any], count: int) -> Chances:
    chosen = next(iter(entry))
    ranked = sorted((each.rank, token) for token, each in entry.items() if each.rank <= count)
    return Chances(chosen, entry[chosen].logprob, tuple((token, entry[token].logprob) for _, token in ranked))
