"""The settings: the only reader of the environment.

Each process reads them once, in its composition root, and hands parts of them on. Every field is documented in
``docs/settings.md``; a test says so.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.addresses import AllowList, Guard
from shared.errors import ConfigurationError

DEMO_MODEL = Path(__file__).resolve().parent.parent / "models" / "demo"

SENTINEL = re.compile(r"[A-Za-z0-9._-]+:\d{1,5}")

ADAPTER_PAIR = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}=.+")

CommaList = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """Every setting, read from the environment variable of the same name in upper case."""

    model_config = SettingsConfigDict(env_file=None, extra="ignore", frozen=True)

    # --- the store
    redis_url: str = Field("redis://127.0.0.1:6379/0", description="The Redis-compatible server: store and broker.")
    redis_prefix: str = Field("stg", pattern=r"^[A-Za-z0-9_-]{1,32}$", description="All keys start with {PREFIX}: .")
    redis_timeout_s: float = Field(2.0, gt=0, le=60, description="Longest wait for one answer of Redis, seconds.")
    redis_sentinels: CommaList = Field(
        (), description="Sentinels, host:port, comma-separated: they say where the server is, not REDIS_URL."
    )
    redis_sentinel_master: str = Field(
        "mymaster", pattern=r"^[A-Za-z0-9._-]{1,128}$", description="What the sentinels call the server."
    )
    redis_sentinel_password: str | None = Field(None, description="The sentinels' own password, where they have one.")
    redis_wait_replicas: int = Field(
        0, ge=0, le=8, description="Replicas that must have a job, or its end, before it is acknowledged (WAIT)."
    )
    environment: str = Field("development", max_length=64, description="A name that /health shows.")

    # --- the model and its engine
    model_id: str = Field(str(DEMO_MODEL), description="Folder with a Hugging Face model, or a hub id.")
    model_revision: str | None = Field(None, description="Hub revision (commit, tag, branch).")
    model_name: str | None = Field(None, description="The name that clients see. Default: from MODEL_ID.")
    engine: Literal["transformers", "vllm", "echo"] = Field(
        "transformers", description="What runs the model: the slot engine, vLLM, or an echo."
    )
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$", description="auto takes CUDA where there is one."
    )
    dtype: Literal["auto", "float16", "bfloat16", "float32"] = Field(
        "auto", description="auto: float16 on CUDA (bfloat16 where the model asks for it), float32 on CPU."
    )
    adapters: CommaList = Field(
        (),
        description="LoRA adapters that jobs may ask for, NAME=FOLDER, comma-separated; all workers of a model have the same.",
    )
    engine_slots: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Sequences that run at the same time. Default: 64, on a GPU with pages 256, or what fits.",
    )
    engine_token_budget: int | None = Field(
        None, ge=16, description="Prompt tokens computed in one engine step. Default: 256 on a CPU, 2048 on a GPU."
    )
    engine_max_context: int | None = Field(
        None, ge=16, description="Caps the context length, tokens. Default: the model's own, or what fits."
    )
    engine_kv_cache_bytes: int | None = Field(
        None, ge=1, description="Memory for keys and values. Default: a share of what the device has free."
    )
    engine_prefix_cache_bytes: int | None = Field(
        None, ge=0, description="Of that, for beginnings that later prompts may share; 0: none. Default: an eighth."
    )
    engine_threads: int | None = Field(None, ge=1, description="CPU threads of the engine. Default: torch's choice.")
    engine_pack_weights: Literal["auto", "on", "off"] = Field("auto", description="oneDNN weight packing on CPU.")
    engine_native_kernels: bool = Field(
        True, description="Our own C++ on CPU, built at the first start where there is a compiler; else torch's."
    )
    engine_native_kernels_dir: Path | None = Field(
        None, description="A folder where those kernels may be built already."
    )
    deterministic: bool = Field(
        False,
        description="The same request with the same seed gives the same tokens whatever runs beside it, to the last bit. "
        "Costs a part of the throughput (docs/glossary.md, deterministic mode).",
    )
    engine_vllm_gpu_memory_utilization: float | None = Field(
        None, gt=0, le=1, description="vLLM: share of the GPU's memory that it takes. Default: vLLM's own."
    )
    engine_vllm_tensor_parallel_size: int = Field(1, ge=1, description="vLLM: GPUs that one model is spread over.")
    engine_vllm_enforce_eager: bool = Field(
        False, description="vLLM: compile nothing and capture no CUDA graphs. Loads sooner, computes slower."
    )
    echo_token_delay_s: float = Field(0.0, ge=0, description="Echo engine: seconds it takes over a token.")

    # --- the worker
    worker_name: str | None = Field(
        None,
        max_length=256,
        pattern=r"^[A-Za-z0-9_@:-][A-Za-z0-9._@:-]*$",
        description="Unique name of a worker process. Default: host, pid, random.",
    )
    worker_beat_s: float = Field(1.0, gt=0, le=10, description="Seconds between heartbeats.")
    worker_lease_s: float = Field(
        4.0, gt=1, le=120, validate_default=True, description="A worker without a beat for so long counts as gone."
    )
    worker_hang_s: float = Field(
        60.0, gt=0, description="An engine that neither steps nor idles for so many seconds hangs; its worker gives up."
    )
    reconcile_s: float = Field(1.0, gt=0, le=60, description="Seconds between two passes of the reconciler.")
    hint_grace_s: float = Field(
        2.0, gt=0, le=60, description="Seconds a hint may be on its way before it counts as lost."
    )
    priority_age_s: float = Field(300.0, gt=0, description="Seconds in a priority class after which a job goes up one.")
    max_crashes: int = Field(4, ge=1, description="A job whose worker died so often while it ran is convicted: failed.")
    events_flush_ms: int = Field(
        80,
        ge=1,
        le=5_000,
        description="Milliseconds for which new text of a job that somebody follows is gathered before it goes to its log.",
    )
    events_unwatched_flush_ms: int = Field(
        500,
        ge=1,
        le=5_000,
        description="The same of a job that nobody follows, from a second after its first words on.",
    )
    worker_drain_s: float = Field(30.0, ge=0, description="Seconds that running jobs get at shutdown.")

    # --- the API
    api_host: str = Field("127.0.0.1", description="Address the API listens on.")
    api_port: int = Field(8000, ge=0, le=65535, description="Port the API listens on.")
    api_workers: int = Field(1, ge=1, le=64, description="gunicorn processes.")
    api_threads: int = Field(64, ge=2, le=1024, description="Threads a gunicorn process.")
    api_max_body_bytes: int = Field(2 * 1024 * 1024, ge=1024, description="Largest request body, bytes.")
    api_max_batch_bytes: int = Field(64 * 1024 * 1024, ge=1024, description="Largest request body of a batch, bytes.")
    api_max_waiters: int = Field(48, ge=0, description="Long polls at the same time in a process; more answer at once.")
    api_max_streams: int = Field(1_000, ge=0, description="Token streams open at the same time in a process.")
    max_streams_per_key: int = Field(256, ge=1, description="Of those, open for one API key.")
    stream_ping_s: float = Field(15.0, gt=0, description="A silent stream says that it lives after so many seconds.")
    stream_stall_s: float = Field(
        10.0,
        gt=0,
        description="A stream whose client has read nothing for so many seconds, though there is much, ends.",
    )
    stream_max_s: float = Field(
        3_600.0, gt=0, description="Seconds after which a stream ends; its client goes on with a new one."
    )
    api_key_cache_s: float = Field(5.0, ge=0, le=60, description="Seconds that a looked-up API key is remembered.")
    cors_origins: CommaList = Field((), description="Origins that browsers may call from, comma-separated.")
    max_prompt_chars: int = Field(8000, ge=1, description="Longest prompt, characters or token ids.")
    token_id_prompts: bool = Field(
        True, description="Prompts may be token ids, which go to the model without a mode's template."
    )
    max_logprobs: int = Field(20, ge=0, le=20, description="Most alternatives that logprobs may ask for at each place.")
    max_new_tokens: int = Field(500, ge=10, description="Ceiling of max_length, tokens.")
    max_batch_size: int = Field(10_000, ge=1, le=10_000, description="Most prompts in one batch.")
    max_wait_s: int = Field(60, ge=0, le=300, description="Longest long poll, seconds.")
    default_requests_per_minute: int = Field(600, ge=1, description="Limit of a key that has none of its own.")
    max_waiting: int = Field(1_000_000, ge=1, description="Jobs waiting in all; beyond, submits are answered 503.")
    default_max_queued: int = Field(20_000, ge=1, description="Jobs waiting for a key that has no cap of its own.")

    # --- webhooks and the courier
    webhook_allowlist: CommaList = Field(
        (),
        description="Private receivers that may be called, plain http too: hosts, host:ports, CIDRs, comma-separated.",
    )
    webhook_timeout_s: float = Field(15.0, gt=0, le=60, description="Longest attempt of a delivery in all, seconds.")
    webhook_retry_s: str = Field(
        "5,300,1800,7200,18000,36000,50400,72000,86400",
        pattern=r"^\d+(\.\d+)?(,\d+(\.\d+)?){0,31}$",
        description="Seconds after each failed attempt until the next one; after the last one a delivery has failed.",
    )
    webhook_concurrency: int = Field(128, ge=1, le=1024, description="Attempts at the same time in a courier.")
    webhook_per_receiver: int = Field(
        8, ge=1, le=1024, description="Of these, to one receiver of a tenant; one that fails gets one at a time."
    )
    webhook_max_endpoints: int = Field(20, ge=1, le=100, description="Webhook endpoints of a tenant.")
    webhook_failing_s: float = Field(
        5 * 86_400.0,
        gt=0,
        description="An endpoint that only failed for so long is disabled when a delivery is given up.",
    )

    # --- what is kept, and how long
    result_ttl_s: int = Field(86_400, ge=1, description="Seconds that a finished job is kept by default.")
    max_result_ttl_s: int = Field(7 * 86_400, ge=1, description="Ceiling of result_ttl_s.")
    tombstone_ttl_s: int = Field(7 * 86_400, ge=0, description="Seconds that an expired job still answers 410.")
    idempotency_ttl_s: int = Field(86_400, ge=1, description="Seconds that an Idempotency-Key is remembered.")
    cache_ttl_s: int = Field(3_600, ge=0, description="Seconds that a result stays in the cache; 0 turns it off.")
    history_max_turns: int = Field(50, ge=0, description="Turns kept of a user's conversation; 0 turns history off.")
    history_ttl_s: int = Field(30 * 86_400, ge=1, description="Seconds that a silent conversation is kept.")
    events_ttl_s: int = Field(900, ge=1, description="Seconds that the events of an ended job can still be streamed.")
    events_max: int = Field(10_000, ge=2, description="Events kept of one job; older ones are dropped.")
    webhook_log_ttl_s: int = Field(7 * 86_400, ge=1, description="Seconds that an ended delivery stays in the log.")
    modes_file: Path | None = Field(None, description="TOML file of prompt modes. Default: the one in the package.")

    # --- logs
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least severe level written.")
    log_format: Literal["auto", "json", "text"] = Field("auto", description="auto: text on a terminal, else json.")

    log_prompts: bool = Field(False, description="Prompts and answers go into the worker's logs.")

    # --- metrics and traces
    metrics_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="Port that a worker or a courier tells its metrics on; 0 is none. The API's are at /metrics.",
    )
    metrics_host: str = Field("127.0.0.1", description="Address of that port.")
    metrics_tenants: CommaList = Field(
        (), description="Tenants that have metrics of their own, comma-separated. Default: none."
    )
    otel_exporter_otlp_endpoint: str | None = Field(
        None,
        pattern=r"^https?://",
        description="Where traces go, by OTLP over HTTP, such as http://collector:4318. Needs the extra otel.",
    )

    @field_validator(
        "adapters", "cors_origins", "webhook_allowlist", "metrics_tenants", "redis_sentinels", mode="before"
    )
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("adapters")
    @classmethod
    def _named_folders(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        names = [pair.partition("=")[0] for pair in value]
        for name, pair in zip(names, value, strict=True):
            if not ADAPTER_PAIR.fullmatch(pair):
                raise ValueError(f"{pair!r} is not NAME=FOLDER, with a name of 1 to 64 of A-Z, a-z, 0-9, ., _ and -")
            if names.count(name) > 1:
                raise ValueError(f"{name} stands there twice")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """flask-cors would take ``https://*.example.com`` for a regular expression, that also ``https://xexample.com.evil.org``
        matches."""
        for origin in value:
            if origin != "*" and not re.fullmatch(r"https?://[A-Za-z0-9.-]+(:\d{1,5})?", origin, re.ASCII):
                raise ValueError(f"{origin!r} is no origin: scheme://host or scheme://host:port, or * alone for any")
        return value

    @field_validator("webhook_allowlist")
    @classmethod
    def _readable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        AllowList.parse(value)
        return value

    @field_validator("redis_sentinels")
    @classmethod
    def _addresses(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for sentinel in value:
            if not SENTINEL.fullmatch(sentinel):
                raise ValueError(f"{sentinel} is not host:port")
        if value and not str(info.data.get("redis_url")).startswith("redis://"):
            raise ValueError(
                "through sentinels REDIS_URL is redis://[:password@]any/db; TLS and sockets are not supported"
            )
        return value

    @field_validator("worker_lease_s")
    @classmethod
    def _outlasts_beats(cls, value: float, info: ValidationInfo) -> float:
        """A beat may be late or lost without its worker being taken for dead; and fewer look like an outage."""
        beat_s = info.data.get("worker_beat_s", 0)
        if value < 3 * beat_s:
            raise ValueError(f"a lease must last for at least three beats (WORKER_BEAT_S={beat_s:g})")
        return value

    @property
    def adapter_folders(self) -> tuple[tuple[str, str], ...]:
        """ADAPTERS as names and folders."""
        pairs = (pair.partition("=") for pair in self.adapters)
        return tuple((name, folder) for name, _, folder in pairs)

    @property
    def sentinel_addresses(self) -> list[tuple[str, int]]:
        """REDIS_SENTINELS as hosts and ports; empty: the server is where REDIS_URL says."""
        pairs = (sentinel.rsplit(":", 1) for sentinel in self.redis_sentinels)
        return [(host, int(port)) for host, port in pairs]

    @property
    def webhook_guard(self) -> Guard:
        """Decides which addresses webhooks may have."""
        return Guard(AllowList.parse(self.webhook_allowlist))

    @property
    def webhook_delays_s(self) -> tuple[float, ...]:
        """WEBHOOK_RETRY_S as numbers."""
        return tuple(float(part) for part in self.webhook_retry_s.split(","))

    @property
    def public_model_name(self) -> str:
        """The name clients use for this deployment's model: MODEL_NAME, else the folder's name, else the hub id.

        An absolute path is a folder, also where it is not there: API and workers have to agree, and in containers only the
        worker's has the model.
        """
        if self.model_name:
            return self.model_name
        folder = Path(self.model_id)
        return folder.resolve().name if folder.is_absolute() or folder.is_dir() else self.model_id


def load_settings(**overrides: object) -> Settings:
    """Read the environment. ``overrides`` win over it (tests, the command line).

    Raises: ConfigurationError, naming every variable that is wrong.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]  # values are checked by pydantic, not by the caller
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors())
        raise ConfigurationError(f"Wrong settings: {wrong}") from error
