"""The worker's composition root, and the Celery app for ``celery -A worker.app …``: alone here real clients are built."""

from __future__ import annotations

import logging
from typing import Any

from celery import Celery, signals

from shared.logs import configure_logging
from shared.queue import make_celery
from shared.settings import Settings, load_settings
from shared.store.connection import connect, key_prefix, require_server
from shared.store.redis import RedisStore
from shared.store.retention import Retention
from shared.store.scripts import Durability
from worker.engine.factory import EngineConfig, build_engine
from worker.engine.protocol import Engine
from worker.lifecycle import MOST_THREADS, Worker, install
from worker.tasks import register


def engine_from(settings: Settings) -> Engine:
    """The engine that the settings name, not started."""
    return build_engine(
        EngineConfig(
            engine=settings.engine,
            model_id=settings.model_id,
            revision=settings.model_revision,
            device=settings.device,
            dtype=settings.dtype,
            slots=settings.engine_slots,
            max_context=settings.engine_max_context,
            token_budget=settings.engine_token_budget,
            threads=settings.engine_threads,
            kv_cache_bytes=settings.engine_kv_cache_bytes,
            prefix_cache_bytes=settings.engine_prefix_cache_bytes,
            pack_weights=settings.engine_pack_weights,
            native_kernels=settings.engine_native_kernels,
            native_kernels_dir=str(settings.engine_native_kernels_dir) if settings.engine_native_kernels_dir else None,
            deterministic=settings.deterministic,
            adapters=settings.adapter_folders,
            gpu_memory_utilization=settings.engine_vllm_gpu_memory_utilization,
            tensor_parallel_size=settings.engine_vllm_tensor_parallel_size,
            enforce_eager=settings.engine_vllm_enforce_eager,
            echo_token_delay_s=settings.echo_token_delay_s,
        )
    )


def build(settings: Settings) -> tuple[Celery, str]:
    """The Celery app of a worker process, and the name of this worker. It connects and loads when its worker starts."""
    celery = make_celery(settings)
    celery.conf.worker_pool = "worker.pool:WakingThreadPool"
    celery.conf.worker_concurrency = MOST_THREADS
    client = connect(settings)
    store = RedisStore(client, key_prefix(settings), Retention.of(settings), durability=Durability.of(settings))
    worker = Worker(settings, store, lambda: engine_from(settings), celery, lambda: require_server(client))
    register(celery, worker.run_job)
    install(celery, worker)

    def set_up_logs(**_: Any) -> None:
        configure_logging(settings, "worker")
        for told_twice in ("celery.app.trace", "celery.worker.strategy"):  # the runner says it with the job's id
            logging.getLogger(told_twice).setLevel(logging.WARNING)

    signals.setup_logging.connect(set_up_logs, weak=False)
    return celery, worker.id


app, worker_name = build(load_settings())
