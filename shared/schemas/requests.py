"""Bodies that clients send. ``bounded`` gives them the limits of one deployment."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Discriminator, Field, Tag, create_model, model_validator
from pydantic_core import PydanticCustomError

from shared.schemas.queries import WaitQuery, absent, wait_up_to
from shared.schemas.sampling import Sampling, TokenId
from shared.schemas.text import (
    ANY_TEXT,
    TENANT,
    CustomId,
    MetadataKey,
    MetadataValue,
    ModelName,
    ModeName,
    Strict,
    Text,
    UserId,
)
from shared.schemas.webhooks import (
    ENDS,
    WEBHOOK,
    Events,
    JobEvents,
    WebhookChange,
    WebhookRequest,
    WebhookUrl,
    webhook_url,
)
from shared.settings import Settings

Scope = Literal["generate", "admin"]
Prompt = Annotated[str, Field(min_length=1, pattern=ANY_TEXT)]


TokenIds = Annotated[list[TokenId], Field(min_length=1)]
PROMPT_TAGS = ("<prompt>", "<token ids>")
"""Of the two kinds of prompt, in the paths of errors: no part of the body."""


def _kind(value: Any) -> str:
    return PROMPT_TAGS[isinstance(value, list)]


AnyPrompt = Annotated[
    Annotated[Prompt, Tag(PROMPT_TAGS[0])] | Annotated[TokenIds, Tag(PROMPT_TAGS[1])], Discriminator(_kind)
]
PROMPT = (
    "What to answer. Token ids (of the model's own vocabulary, its start token included) are what the model reads, as they "
    "are: without the mode's template and without the conversation."
)


class Options(Sampling):
    """How to generate. Everything has a default."""

    user_id: UserId | None = Field(None, description="Whose conversation this is: earlier turns go into the prompt.")
    max_length: int = Field(100, ge=10, description="Most new tokens.")
    mode: ModeName = Field("general", description="Prompt mode, see GET /api/modes.")
    model: ModelName | None = Field(None, description="A served model, see GET /api/models. Default: the deployment's.")
    priority: Literal["low", "normal", "high"] = Field("normal", description="Waiting high jobs go before normal ones.")
    queue_timeout_s: int | None = Field(
        None, ge=1, le=86_400, description="Seconds that it may wait; then it is expired. Default: without end."
    )
    execution_timeout_s: int | None = Field(
        None, ge=1, le=86_400, description="Seconds that it may run; then it is expired, and keeps what it has."
    )
    result_ttl_s: int | None = Field(None, ge=1, description="Seconds that the finished job is kept.")
    cache: bool = Field(True, description="May a stored result that must be the same be served instead?")
    metadata: dict[MetadataKey, MetadataValue] = Field(
        default_factory=dict,
        max_length=16,
        description="Yours; comes back with the job.",
        json_schema_extra={"additionalProperties": False},
    )
    webhook: WebhookUrl | None = Field(None, description=WEBHOOK)


class GenerateRequest(Options):
    """One job."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "What is a good tea for the evening?", "mode": "recommendation"}]}
    )

    prompt: AnyPrompt = Field(description=PROMPT)
    webhook_events_filter: JobEvents = Field(list(ENDS), description="What the webhook is told of.")


class BatchItem(GenerateRequest):
    """One job of a batch. What it leaves out comes from the batch's own options."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"custom_id": "row-1", "prompt": "Say hello."}]})

    custom_id: CustomId | None = Field(None, description="Your name for it.")


class BatchRequest(Options):
    """Many jobs, admitted together or not at all: either ``prompts`` or ``requests``, with options for all of them."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": ["prompts"]}, {"required": ["requests"]}],
            "examples": [{"prompts": ["Say hello.", "Say goodbye."], "max_length": 40}],
        }
    )

    item_model: ClassVar[type[BatchItem]] = BatchItem

    webhook_events_filter: Events = Field(
        ["batch.completed"], description="What the webhook is told of; with events of jobs, of each of its jobs' too."
    )
    prompts: list[AnyPrompt] = Field(default_factory=list, min_length=1, description="One job for each.")
    requests: list[BatchItem] = Field(default_factory=list, min_length=1, description="Jobs with options of their own.")

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if bool(self.prompts) == bool(self.requests):
            raise PydanticCustomError("exactly_one", "Give exactly one of prompts and requests", {"param": "prompts"})
        return self

    @model_validator(mode="after")
    def _each_custom_id_once(self) -> Self:
        seen: dict[str, int] = {}
        for index, item in enumerate(self.requests):
            if item.custom_id is None:
                continue
            first = seen.setdefault(item.custom_id, index)
            if first != index:
                where = {"param": f"requests.{index}.custom_id"}
                raise PydanticCustomError("duplicate_custom_id", f"The same as that of requests.{first}", where)
        return self

    def items(self) -> list[BatchItem]:
        """The jobs, each with the options that hold for it. Everything in them has been validated."""
        common = {name: getattr(self, name) for name in self.model_fields_set - {"prompts", "requests"}}
        of_jobs = [event for event in self.webhook_events_filter if event != "batch.completed"]
        hook = {"webhook": common.pop("webhook", None), "webhook_events_filter": of_jobs}
        common.pop("webhook_events_filter", None)
        common |= hook if of_jobs else {}
        if self.prompts:
            one = self.item_model.model_construct(**common)
            return [one.model_copy(update={"prompt": prompt}) for prompt in self.prompts]
        return [item.model_copy(update=_left_out(item, common)) for item in self.requests]


def _left_out(item: BatchItem, common: dict[str, Any]) -> dict[str, Any]:
    """Of the batch's options, those that the item leaves out; one with a webhook of its own has its own filter too."""
    own = item.model_fields_set | ({"webhook_events_filter"} if "webhook" in item.model_fields_set else set())
    return {name: value for name, value in common.items() if name not in own}


class KeyRequest(Strict):
    """An API key to make."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"tenant": "shop", "name": "backend"}]})

    tenant: str = Field(min_length=1, max_length=64, pattern=TENANT, description="Whose jobs the key sees and makes.")
    name: Text = Field("", max_length=128, description="For people.")
    scopes: list[Scope] = Field(["generate"], min_length=1, max_length=2, description="What the key may do.")
    weight: int = Field(1, ge=1, le=1000, description="Its jobs' share of the workers beside other tenants that wait.")
    requests_per_minute: int | None = Field(None, ge=1, le=1_000_000, description="Default: the deployment's limit.")
    tokens_per_day: int | None = Field(
        None, ge=1, le=10**12, description="Prompt and output tokens a day (UTC). Default: no limit."
    )
    max_queued: int | None = Field(
        None, ge=1, le=10_000_000, description="Jobs waiting. Default: the deployment's cap."
    )


@dataclass(frozen=True, slots=True)
class Wire:
    """The models whose bounds come from the settings."""

    generate: type[GenerateRequest]
    batch: type[BatchRequest]
    wait: type[WaitQuery]
    webhook: type[WebhookRequest]
    webhook_change: type[WebhookChange]


def bounded(settings: Settings, modes: Collection[str]) -> Wire:
    """The request models with a deployment's limits and modes in them, for validation and for the document alike."""
    default_mode = "general" if "general" in modes else min(modes)
    longest = settings.max_new_tokens
    prompt: Any = Annotated[str, Field(min_length=1, max_length=settings.max_prompt_chars, pattern=ANY_TEXT)]
    if settings.token_id_prompts:
        ids: Any = Annotated[list[TokenId], Field(min_length=1, max_length=settings.max_prompt_chars)]
        prompt = Annotated[
            Annotated[prompt, Tag(PROMPT_TAGS[0])] | Annotated[ids, Tag(PROMPT_TAGS[1])], Discriminator(_kind)
        ]
    url = webhook_url(settings.webhook_guard)
    named: dict[str, Any] = {"enum": sorted(modes)}
    options: dict[str, Any] = {
        "max_length": (int, Field(min(100, longest), ge=10, le=longest, description=_said("max_length"))),
        "mode": (ModeName, Field(default_mode, json_schema_extra=named, description=_said("mode"))),
        "result_ttl_s": (
            int | None,
            Field(None, ge=1, le=settings.max_result_ttl_s, description=_said("result_ttl_s")),
        ),
        "webhook": (url | None, Field(None, description=WEBHOOK)),
        "min_tokens": (int, Field(0, ge=0, le=longest, description=_said("min_tokens"))),
        "logprobs": (int | None, Field(None, ge=0, le=settings.max_logprobs, description=_said("logprobs"))),
    }
    own = options | {"prompt": (prompt, Field(description=PROMPT if settings.token_id_prompts else "What to answer."))}
    item: Any = create_model("BatchItem", __base__=BatchItem, __doc__=BatchItem.__doc__, **own)
    many: dict[str, Any] = {"default_factory": list, "min_length": 1, "max_length": settings.max_batch_size}
    jobs: dict[str, Any] = {
        "prompts": (list[prompt], Field(description="One job for each.", **many)),
        "requests": (list[item], Field(description="Jobs with options of their own.", **many)),
    }
    batch = create_model("BatchRequest", __base__=BatchRequest, __doc__=BatchRequest.__doc__, **options, **jobs)
    batch.item_model = item
    return Wire(
        generate=create_model("GenerateRequest", __base__=GenerateRequest, __doc__=GenerateRequest.__doc__, **own),
        batch=batch,
        wait=create_model(
            "WaitQuery", __base__=WaitQuery, __doc__=WaitQuery.__doc__, wait=wait_up_to(settings.max_wait_s)
        ),
        webhook=create_model(
            "WebhookRequest",
            __base__=WebhookRequest,
            __doc__=WebhookRequest.__doc__,
            url=(url, Field(description=WEBHOOK)),
        ),
        webhook_change=create_model(
            "WebhookChange",
            __base__=WebhookChange,
            __doc__=WebhookChange.__doc__,
            url=(url, absent(description=WEBHOOK)),
        ),
    )


def _said(field: str) -> str | None:
    return Options.model_fields[field].description
