"""The demo model's tokenizer, and talks as token ids with a mark on every token that the model must learn to write."""

import json
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = (
    "{%- for message in messages -%}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)
CONTEXT = 1024
HAN = Regex(r"[\u2e80-\u9fff\uff00-\uffef]")

Row = tuple[list[int], list[bool]]


def read_talks(corpus: Path) -> Iterator[dict[str, Any]]:
    """The corpus file in, its talks out."""
    with corpus.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def train_tokenizer(texts: Iterable[str], vocab: int) -> Tokenizer:
    """Texts and a size in, a byte-level BPE tokenizer out; digits and Chinese characters stand alone."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Split(HAN, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=SPECIAL, initial_alphabet=alphabet, min_frequency=3, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def for_transformers(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """The bare tokenizer in, the same with its chat template and its special tokens, for transformers, out."""
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        eos_token=SPECIAL[1],
        pad_token=SPECIAL[0],
        additional_special_tokens=SPECIAL[2:],
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def to_row(talk: dict[str, Any], tokenizer: Tokenizer) -> Row:
    """A talk in, its ids and whether each is to be learnt (answers and their end) out, cut to the context.

    What people wrote is encoded as plain text even where it spells a special token.
    """
    tokenizer.encode_special_tokens = True
    messages: list[dict[str, str]] = talk["messages"]
    encoded = tokenizer.encode_batch([message["content"] for message in messages])
    special = {name: at for at, name in enumerate(SPECIAL)}
    parts = [
        (
            [special[f"<|{message['role']}|>"], *text.ids, special["<|end|>"]],
            message["role"] == "assistant" and at >= talk["learn_from"],
        )
        for at, (message, text) in enumerate(zip(messages, encoded, strict=True))
    ]
    ids = list(chain.from_iterable(part for part, _ in parts))
    learnt = list(chain.from_iterable([False] + [answer] * (len(part) - 1) for part, answer in parts))
    return ids[:CONTEXT], learnt[:CONTEXT]
