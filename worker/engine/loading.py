"""From a model's name to a model in memory, or a sentence that says what to do."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from shared.errors import ModelLoadError
from worker.engine.config import EngineConfig

logger = logging.getLogger(__name__)

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Described:
    """What a model says of itself, without its weights. ``config``: transformers' config of a causal model."""

    config: Any
    tokenizer: PreTrainedTokenizerBase
    revision: str


@dataclass(frozen=True, slots=True)
class LoadedWeights:
    """A model in evaluation mode on its device, and its tokenizer. ``revision``: the commit, or ``local``."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    revision: str
    device: torch.device
    dtype: torch.dtype


def load_weights(config: EngineConfig) -> LoadedWeights:
    """Load what ``config.model_id`` names: safetensors only, and never the model's own code.

    Raises: ModelLoadError.
    """
    device = choose_device(config.device)
    described = describe(config)
    dtype = choose_dtype(config.dtype, device, described.config)
    model = _explained(config, lambda c: _load_model(c, dtype))
    model.to(device).eval().requires_grad_(False)
    return LoadedWeights(model, described.tokenizer, described.revision, device, dtype)


def describe(config: EngineConfig) -> Described:
    """Read the config and the tokenizer of what ``config.model_id`` names.

    Raises: ModelLoadError (there is none, it is no causal model, it has no fast tokenizer).
    """
    _check_folder(config.model_id)
    model_config = _explained(config, _load_config)
    _check_causal(config.model_id, model_config)
    tokenizer = _explained(config, _load_tokenizer)
    revision = getattr(model_config, "_commit_hash", None) or config.revision or "local"
    return Described(model_config, tokenizer, revision)


def declared_ends(tokenizer: PreTrainedTokenizerBase, *declared: int | list[int] | None) -> frozenset[int]:
    """Ids that end an answer: those that the model's configs declare (``eos_token_id``), or else the tokenizer's."""
    found: set[int] = set()
    for ids in declared:
        found.update([ids] if isinstance(ids, int) else ids or [])
    if not found and tokenizer.eos_token_id is not None:
        found.add(tokenizer.eos_token_id)
    return frozenset(found)


def choose_device(name: str) -> torch.device:
    """Raises: ModelLoadError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ModelLoadError(f"Unknown device {name!r}: use auto, cpu, cuda or cuda:N.", param="device") from None
    if device.type not in ("cpu", "cuda"):
        raise ModelLoadError(f"Device {name!r} is not supported: use auto, cpu, cuda or cuda:N.", param="device")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelLoadError(
            f"Device {name!r} was asked for, and torch sees {torch.cuda.device_count()} CUDA devices here. "
            "Set the device to cpu or auto, or give the container its GPU.",
            param="device",
        )
    return device


def choose_dtype(name: str, device: torch.device, model_config: Any) -> torch.dtype:
    """``auto``: float32 on a CPU; on CUDA bfloat16 where the model's config asks for it, else float16.

    Raises: ModelLoadError.
    """
    if name != "auto":
        if name not in _DTYPES:
            raise ModelLoadError(f"Unknown dtype {name!r}: use auto, {', '.join(_DTYPES)}.", param="dtype")
        return _DTYPES[name]
    if device.type == "cpu":
        return torch.float32
    wants = getattr(model_config, "dtype", None)
    return torch.bfloat16 if wants is torch.bfloat16 and torch.cuda.is_bf16_supported() else torch.float16


def _load_config(config: EngineConfig) -> Any:
    return AutoConfig.from_pretrained(config.model_id, revision=config.revision, trust_remote_code=False)


def _load_tokenizer(config: EngineConfig) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(config.model_id, revision=config.revision, trust_remote_code=False)
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ModelLoadError(
            f"Model {config.model_id!r} has no tokenizer.json (a fast tokenizer), which this engine needs. "
            "Save one with AutoTokenizer.from_pretrained(...).save_pretrained(...)."
        )
    return tokenizer


def _load_model(config: EngineConfig, dtype: torch.dtype) -> PreTrainedModel:
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        config.model_id,
        revision=config.revision,
        dtype=dtype,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
    )
    model: PreTrainedModel
    model, report = loaded
    # transformers fills missing weights with random numbers and only warns.
    missing = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if missing:
        raise ModelLoadError(
            f"The weights of {config.model_id!r} are not complete: {len(missing)} are missing or have another shape "
            f"({', '.join(missing[:3])}). Download the model again."
        )
    return model


def _check_folder(model_id: str) -> None:
    path = Path(model_id).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelLoadError(f"The folder {model_id!r} has no config.json: it is not a model. Check MODEL_ID.")
    elif path.exists() or path.is_absolute() or model_id.startswith((".", "~")) or model_id.count("/") > 1:
        raise ModelLoadError(f"There is no folder {model_id!r}. Check MODEL_ID, or mount the folder.")


def _check_causal(model_id: str, model_config: Any) -> None:
    if getattr(model_config, "auto_map", None) and type(model_config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise _needs_code(model_id)
    if type(model_config) not in MODEL_FOR_CAUSAL_LM_MAPPING or getattr(model_config, "is_encoder_decoder", False):
        raise ModelLoadError(
            f"Model {model_id!r} is of type {model_config.model_type!r}, which is not a causal language model. "
            "Choose a model for text generation."
        )


def _explained(config: EngineConfig, load: Any) -> Any:
    """What ``load`` returns; its errors as one sentence."""
    try:
        return load(config)
    except ModelLoadError:
        raise
    except Exception as error:
        logger.debug("Loading failed.", exc_info=True)
        raise _explain(config, error) from error


def _explain(config: EngineConfig, error: BaseException) -> ModelLoadError:
    """The first of the sentences below that fits."""
    name, at = repr(config.model_id), f" at revision {config.revision!r}" if config.revision else ""
    causes, text = _causes(error), str(error).strip()
    offline = _any(causes, LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError) or "couldn't connect" in text
    no_revision = _any(causes, RevisionNotFoundError) or "is not a valid git identifier" in text
    sentences = (
        (no_revision, f"Model {name} has no revision {config.revision!r}. Check the revision."),
        (_any(causes, GatedRepoError), f"Model {name} is gated: accept its terms on the hub and set HF_TOKEN."),
        (
            _any(causes, RepositoryNotFoundError, HFValidationError),
            f"The hub has no model {name}, or it is private. Check MODEL_ID, or set HF_TOKEN.",
        ),
        (offline, _unreachable(f"{name}{at}")),
        ("trust_remote_code" in text, _needs_code(config.model_id).message),
        (
            _any(causes, SafetensorError),
            f"The weights of {name} cannot be read: {text}. Download the model again.",
        ),
        (
            "safetensors" in text and isinstance(error, OSError),
            f"Model {name}{at} has no weights as safetensors, the only kind that is loaded here.",
        ),
        (
            _any(causes, torch.OutOfMemoryError, MemoryError),
            f"Model {name} does not fit the memory. Choose a smaller model, or dtype float16.",
        ),
        (True, f"Model {name}{at} could not be loaded: {type(error).__name__}: {text}"),
    )
    return ModelLoadError(next(sentence for fits, sentence in sentences if fits))


def _unreachable(model: str) -> str:
    return (
        f"The hub cannot be reached, and model {model} is not in the local cache. "
        "Set MODEL_ID to a local folder, or allow the download once."
    )


def _needs_code(model_id: str) -> ModelLoadError:
    return ModelLoadError(
        f"Model {model_id!r} needs its own Python code to run, and code from a model is never run here. "
        "Choose a model that transformers supports itself."
    )


def _causes(error: BaseException | None) -> list[BaseException]:
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def _any(causes: list[BaseException], *kinds: type[BaseException]) -> bool:
    return any(isinstance(cause, kinds) for cause in causes)
