"""Does a prompt fit the model's context? Counted here, so that a client hears it at once and not from a failed job."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from api.errors import ValidationFailedError
from shared.errors import ContextLengthError
from shared.modes import language_of
from shared.store.protocol import JobStore, ModelInfo

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class ContextGuard:
    """Counts tokens with the tokenizers that workers announce. Nothing is loaded for prompts that surely fit, and the
    tokenizer library (no model library) only when the first one is not sure."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._tokenizers: dict[str, Tokenizer] = {}

    def require_fit(self, model: ModelInfo | None, mode: str, prompt: str, max_length: int) -> None:
        """Raises: ContextLengthError where template, prompt and new tokens exceed the context.

        A token is at least one byte, so a prompt of fewer bytes than there is room surely fits. Where no worker has
        announced the model yet, the worker decides.
        """
        if model is None:
            return
        around = {key: count for key, count in model.mode_tokens.items() if key.split("/", 1)[0] == mode}
        room = model.context_length - max_length
        if len(prompt.encode()) + max(around.values(), default=0) <= room:
            return
        tokenizer = self._tokenizer(model.tokenizer_digest)
        if tokenizer is None:
            return
        tokens = len(tokenizer.encode(prompt, add_special_tokens=False).ids)
        tokens += around.get(f"{mode}/{language_of(prompt)}", max(around.values(), default=0))
        if tokens > room:
            raise ContextLengthError(
                f"The prompt takes {tokens} tokens with its template; with max_length {max_length} that is more than "
                f"the model's context of {model.context_length}.",
                param="prompt",
            )

    def require_ids_fit(self, model: ModelInfo | None, ids: Sequence[int], max_length: int) -> None:
        """Raises: ContextLengthError where token ids and new tokens exceed the context; ValidationFailedError for an id that the
        model does not have, naming its place."""
        if model is None:
            return
        require_known(model, {f"prompt.{place}": token for place, token in enumerate(ids)})
        if len(ids) + max_length > model.context_length:
            raise ContextLengthError(
                f"The prompt's {len(ids)} tokens with max_length {max_length} are more than the model's context of "
                f"{model.context_length}.",
                param="prompt",
            )

    def _tokenizer(self, digest: str | None) -> Tokenizer | None:
        if digest is None:
            return None
        with self._lock:
            if digest not in self._tokenizers:
                content = self._store.tokenizer(digest)
                if content is None:
                    return None
                self._tokenizers = {digest: _load(content)}  # only the latest: they are large
            return self._tokenizers[digest]


def require_known(model: ModelInfo | None, tokens: Mapping[str, int]) -> None:
    """tokens: where they stand in the request → their ids. Raises: ValidationFailedError for one that the model does not have."""
    if model is None or model.vocab_size is None:
        return
    for where, token in tokens.items():
        if token >= model.vocab_size:
            raise ValidationFailedError(
                f"{where}: the model has no such token; its ids are below {model.vocab_size}.", param=where
            )


def _load(content: bytes) -> Tokenizer:
    from tokenizers import Tokenizer  # noqa: PLC0415  # loaded only where it is needed: it costs memory

    tokenizer = Tokenizer.from_str(content.decode())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # what a user writes is text, also where it spells a special token
    return tokenizer
