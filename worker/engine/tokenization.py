"""Text to token ids and back, where a user's text can never become a special token or a part of a template.

For encoding there is a second tokenizer, equal to the model's but for the names of its control tokens, which are random
words: in trusted text the names are exchanged for those words first, and in a user's text they are letters like
others. So a whole prompt is encoded at one go, and tokens may span trusted and untrusted text as they did in training.
In the same way a chat template is rendered with random words in place of the users' texts.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
from collections.abc import Sequence
from typing import Any

from jinja2.exceptions import TemplateError
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from shared.errors import InvalidRequestError
from worker.engine.protocol import Message, Piece

logger = logging.getLogger(__name__)


class ModelTokenization:
    """The tokenization of one model. ``tokenizer`` must be a fast one (it has a ``backend_tokenizer``)."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._backend: Tokenizer = tokenizer.backend_tokenizer
        names = _control_names(self._backend, tokenizer.all_special_tokens)
        self._aliases = {name: f"<{secrets.token_hex(12)}>" for name in names}
        self._alias_pattern = re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))) or r"(?!)")
        self._encoder = _with_renamed_controls(self._backend, self._aliases)
        self._true_ids = self._map_ids()
        self._start = self._start_tokens()
        self._token_texts: dict[int, str] = {}

    @property
    def has_chat_template(self) -> bool:
        return bool(self._tokenizer.chat_template)

    def encode(self, pieces: Sequence[Piece]) -> tuple[int, ...]:
        text = "".join(self._aliased(piece.text) if piece.trusted else piece.text for piece in pieces)
        # A lone surrogate cannot be said in UTF-8, and the tokenizer would panic.
        text = text.encode("utf-8", "replace").decode("utf-8")
        ids = self._encoder.encode(text, add_special_tokens=False).ids
        tokens = tuple(self._true_ids.get(token, token) for token in ids)
        return tokens if tokens[: len(self._start)] == self._start else self._start + tokens

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._backend.decode(list(ids), skip_special_tokens=True)
        return text

    def token_text(self, token: int) -> str:
        text = self._token_texts.get(token)
        if text is None:
            text = self._token_texts[token] = str(self._backend.decode([token], skip_special_tokens=False))
        return text

    def to_json(self) -> bytes:
        return str(self._backend.to_str()).encode()

    def chat_pieces(self, messages: Sequence[Message]) -> list[Piece] | None:
        """As ``Engine.chat_pieces``. White space around a text goes through the template as it is, since some templates trim.

        Raises: InvalidRequestError where the template refuses the conversation (roles in the wrong order).
        """
        if not self.has_chat_template:
            return None
        contents: dict[str, str] = {}
        turns = [self._turn(message, contents) for message in messages]
        rendered = self._render(turns)
        # A template may leave out old turns, but what the last one says has to be there.
        if contents and list(contents)[-1] not in rendered:
            logger.warning("The chat template of this model changes what users say; it cannot be used.")
            return None
        return _split(rendered, contents)

    def _turn(self, message: Message, contents: dict[str, str]) -> dict[str, str]:
        core = message.content.strip()
        if message.role == "system" or not core:
            return {"role": message.role, "content": message.content}
        word = f"x{secrets.token_hex(12)}x"
        contents[word] = core
        before, _, after = message.content.partition(core)
        return {"role": message.role, "content": f"{before}{word}{after}"}

    def _render(self, turns: list[dict[str, str]]) -> str:
        try:
            return self._apply_template(turns)
        except TemplateError as error:
            merged = _system_merged(turns)
            if merged is None:
                raise _refusal(error) from error
        try:
            return self._apply_template(merged)
        except TemplateError as error:
            raise _refusal(error) from error

    def _apply_template(self, turns: list[dict[str, str]]) -> str:
        text = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        assert isinstance(text, str)
        return text

    def _aliased(self, text: str) -> str:
        return self._alias_pattern.sub(lambda match: self._aliases[match[0]], text)

    def _map_ids(self) -> dict[int, int]:
        """From the encoder's ids of control tokens to the model's."""
        ids: dict[int, int] = {}
        for name, alias in self._aliases.items():
            alias_id, true_id = self._encoder.token_to_id(alias), self._backend.token_to_id(name)
            if alias_id is not None and true_id is not None:
                ids[alias_id] = true_id
        return ids

    def _start_tokens(self) -> tuple[int, ...]:
        """What the model's tokenizer puts before a text by itself, such as Llama's start token."""
        plain = self._backend.encode("a", add_special_tokens=False).ids
        full = self._backend.encode("a", add_special_tokens=True).ids
        for at in range(len(full) - len(plain) + 1):
            if full[at : at + len(plain)] == plain:
                return tuple(full[:at])
        return ()


def _control_names(backend: Tokenizer, special: Sequence[str]) -> set[str]:
    """Tokens that no user may write: all that were added, except runs of white space, which some models add as text."""
    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    return {name for name in added | set(special) if name.strip() and backend.token_to_id(name) is not None}


def _with_renamed_controls(backend: Tokenizer, aliases: dict[str, str]) -> Tokenizer:
    """A copy that knows the control tokens by their aliases only, in the list of added tokens and in the vocabulary."""
    data: dict[str, Any] = json.loads(backend.to_str())
    data["truncation"] = data["padding"] = data["post_processor"] = None
    known = {token["content"]: token for token in data["added_tokens"]}
    for name, alias in aliases.items():
        if name in known:
            known[name]["content"] = alias
    model = data["model"]
    if isinstance(model.get("unk_token"), str):
        model["unk_token"] = aliases.get(model["unk_token"], model["unk_token"])
    vocab = model.get("vocab")
    if isinstance(vocab, dict):
        model["vocab"] = {aliases.get(text, text): token for text, token in vocab.items()}
    elif isinstance(vocab, list):
        model["vocab"] = [[aliases.get(entry[0], entry[0]), *entry[1:]] for entry in vocab]
    return Tokenizer.from_str(json.dumps(data))


def _split(rendered: str, contents: dict[str, str]) -> list[Piece]:
    """The rendered template, cut at the random words, with the users' texts in their places."""
    if not contents:
        return [Piece(rendered, trusted=True)]
    parts = re.split(f"({'|'.join(contents)})", rendered)
    return [Piece(contents.get(part, part), trusted=part not in contents) for part in parts if part]


def _system_merged(turns: list[dict[str, str]]) -> list[dict[str, str]] | None:
    """For templates without a system role: its text before the first user's; None where there is nothing to merge."""
    if len(turns) < 2 or turns[0]["role"] != "system" or turns[1]["role"] != "user":
        return None
    first = {"role": "user", "content": f"{turns[0]['content']}\n\n{turns[1]['content']}"}
    return [first, *turns[2:]]


def _refusal(error: TemplateError) -> InvalidRequestError:
    return InvalidRequestError(f"The model's chat template refuses these messages: {error}", param="messages")
