"""Puts a trained model where transformers loads it from, file by file in one move each."""

import tempfile
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def halved(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """A model in, a copy with half-precision weights that names float32 as the type to load out."""
    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.half()  # type: ignore[no-untyped-call]
    return copy


def write_model(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """A model, its tokenizer and a folder in; all files of the model are written there."""
    copy = halved(model)
    copy.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, max_new_tokens=120
    )
    copy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = copy.config
    config.dtype = torch.float32
    config.save_pretrained(folder)


def export(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """A model, its tokenizer and the target folder in; every file there is replaced in one move."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".export-") as folder:
        write_model(model, tokenizer, Path(folder))
        for file in sorted(Path(folder).iterdir()):
            file.chmod(0o644)
            file.replace(out / file.name)
