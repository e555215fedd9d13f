"""What a request may say about the choice of tokens, and what it wants to know of them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from shared.schemas.formats import ResponseFormat
from shared.schemas.text import ADAPTER, StopString, Strict

MOST_LOGPROBS = 20
LARGEST_TOKEN = 2**31 - 1


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


StopList = Annotated[list[StopString], Field(max_length=4)]
Stop = Annotated[StopList, BeforeValidator(_listed, json_schema_input_type=StopString | StopList)]
TokenId = Annotated[int, Field(ge=0, le=LARGEST_TOKEN)]
TokenKey = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,8})$")]
Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
AdapterName = Annotated[str, Field(min_length=1, max_length=64, pattern=ADAPTER)]


class Sampling(Strict):
    """How tokens are chosen. Everything has a default."""

    temperature: float = Field(0.7, ge=0, le=2, allow_inf_nan=False, description="0 is greedy.")
    top_p: float = Field(1.0, gt=0, le=1, allow_inf_nan=False, description="Nucleus sampling; 1 is off.")
    top_k: int = Field(0, ge=0, le=1000, description="Sample from so many tokens; 0 is off.")
    min_p: float = Field(
        0.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Leave out tokens below this share of the likeliest one's; 0 is off.",
    )
    repetition_penalty: float = Field(1.0, gt=0.5, le=2, allow_inf_nan=False, description="1 is off.")
    presence_penalty: float = Field(
        0.0, ge=-2, le=2, allow_inf_nan=False, description="Taken off the logits of tokens that the answer has."
    )
    frequency_penalty: float = Field(
        0.0, ge=-2, le=2, allow_inf_nan=False, description="The same for each time that it has them."
    )
    logit_bias: dict[TokenKey, Bias] = Field(
        default_factory=dict,
        max_length=300,
        description="Token id → what is added to its logit.",
        json_schema_extra={"additionalProperties": False},
    )
    seed: int | None = Field(None, ge=0, le=2**63 - 1, description="Makes sampling repeatable.")
    stop: Stop = Field(default_factory=list, description="Up to 4 texts that end the answer; they are not part of it.")
    stop_token_ids: list[TokenId] = Field(
        default_factory=list, max_length=64, description="Tokens that end the answer; they are not in its text."
    )
    min_tokens: int = Field(
        0,
        ge=0,
        description="Before so many tokens nothing but max_length ends the answer (no end of text, no stop_token_ids).",
    )
    ignore_eos: bool = Field(False, description="Go on after the end of text, up to max_length: for benchmarks.")
    n: int = Field(1, ge=1, le=4, description="Completions of the prompt.")
    logprobs: int | None = Field(
        None,
        ge=0,
        le=MOST_LOGPROBS,
        description="Tell the log-probability of each token, and so many of the likeliest at each place. Null: none.",
    )
    echo: bool = Field(
        False,
        description="The prompt, as it was given, stands before each answer; of one that is token ids logprobs are told too.",
    )
    response_format: ResponseFormat | None = Field(None, description="What the answer has to match. Null: any text.")
    adapter: AdapterName | None = Field(None, description="A LoRA adapter of the model, see GET /api/models.")
