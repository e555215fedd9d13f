"""What an engine is built from: plain values, no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How to build an engine.

    engine: ``transformers``, ``vllm`` or ``echo``. model_id: a local folder or a hub id; revision pins a hub id.
    device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. dtype: ``auto`` (fp16 on CUDA, bf16 there where the model's config
    asks for it, fp32 on a CPU), ``float32``, ``float16`` or ``bfloat16``.
    slots: rows that run together; None chooses. max_context: tokens a row can hold; None is the model's own, or what
    fits in kv_cache_bytes. token_budget: prompt tokens computed in one step; None chooses. threads: torch threads on a
    CPU; None is one for a small model and torch's choice for others. pack_weights: ``auto``, ``on`` or ``off`` (oneDNN's blocked layout, CPU only).
    native_kernels: build and use our own C++ (CPU only; torch's where there is no compiler); native_kernels_dir: a
    folder where they may be ready.
    deterministic: an answer's numbers do not depend on what else runs, at a price (``deterministic.py``).
    kv_cache_bytes: memory for keys and values; None chooses from what the device has free. prefix_cache_bytes: how much of it
    is for those of prompts and answers that are over, which others may begin with; None is an eighth, 0 keeps none.
    adapters: names and folders of LoRA adapters in peft's format, which requests may name.
    gpu_memory_utilization, tensor_parallel_size, enforce_eager: vLLM's, as in its documentation; the first None is vLLM's
    default. echo_token_delay_s: seconds the echo engine takes for a step. echo_context: tokens a row of it holds.
    """

    engine: str = "transformers"
    model_id: str = ""
    revision: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    slots: int | None = None
    max_context: int | None = None
    token_budget: int | None = None
    threads: int | None = None
    pack_weights: str = "auto"
    native_kernels: bool = True
    native_kernels_dir: str | None = None
    deterministic: bool = False
    kv_cache_bytes: int | None = None
    prefix_cache_bytes: int | None = None
    adapters: tuple[tuple[str, str], ...] = ()
    gpu_memory_utilization: float | None = None
    tensor_parallel_size: int = 1
    enforce_eager: bool = False
    echo_token_delay_s: float = 0.0
    echo_context: int = 4096
