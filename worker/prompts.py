"""From a job to the token ids that the model reads: the mode's template, the conversation, the input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shared.errors import ContextLengthError, InvalidRequestError
from shared.job import JobSpec, Turn
from shared.modes import LANGUAGES, SLOT, Modes, Template, language_of
from worker.engine.protocol import Engine, Message, Piece


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids, the strings that end the answer, and how many earlier turns found room. ``shared_tokens``: of the ids, those of
    the mode's template that come before anything of a user's. ``echo``: the text that is to stand before the answers, where
    one is. ``first``: the text of the first token, where it is told of."""

    ids: tuple[int, ...]
    stop: tuple[str, ...]
    turns: int
    shared_tokens: int = 0
    echo: str | None = None
    first: str = ""


class PromptBuilder:
    """Renders jobs for one engine. What users wrote stays untrusted text in every piece."""

    def __init__(self, engine: Engine, modes: Modes) -> None:
        self._engine = engine
        self._modes = modes
        self._beginnings: dict[Template, tuple[int, ...]] = {}

    def build(self, spec: JobSpec, history: Sequence[Turn] = ()) -> Prompt:
        """The prompt with as many of the newest turns as fit the context beside ``max_length`` new tokens.

        Token ids are taken as they are: no template, no turns. history: oldest turn first. Raises: ContextLengthError (it does
        not fit even without history), UnknownModeError, InvalidRequestError (a token id outside the vocabulary).
        """
        if spec.prompt_token_ids:
            return self._of_ids(spec)
        template = self._modes[spec.mode].templates[language_of(spec.prompt)]
        room = self._engine.info.context_length - spec.max_length
        fitting, too_many = -1, len(history) + 1
        ids: tuple[int, ...] = ()
        kept = len(history)  # try all of them first: that is what mostly fits
        while fitting + 1 < too_many:
            tried = self._ids(template, history[len(history) - kept :], spec.prompt)
            if len(tried) <= room:
                fitting, ids = kept, tried
            else:
                too_many = kept
            kept = (fitting + too_many) // 2
        if fitting < 0:
            raise ContextLengthError(
                f"The prompt in its template and max_length {spec.max_length} are more than the model's "
                f"{self._engine.info.context_length} tokens.",
                param="prompt",
            )
        shared = _common(ids, self._beginning(template))
        return Prompt(ids, self._stop(spec, template), fitting, shared, spec.prompt if spec.echo else None)

    def _of_ids(self, spec: JobSpec) -> Prompt:
        ids, info = spec.prompt_token_ids, self._engine.info
        for place, token in enumerate(ids):
            if not 0 <= token < info.vocab_size:
                raise InvalidRequestError(
                    f"The prompt's token {place} is {token}; the model's ids are below {info.vocab_size}.",
                    param=f"prompt.{place}",
                )
        if len(ids) + spec.max_length > info.context_length:
            raise ContextLengthError(
                f"The prompt's {len(ids)} tokens and max_length {spec.max_length} are more than the model's "
                f"{info.context_length} tokens.",
                param="prompt",
            )
        if not spec.echo:
            return Prompt(ids, spec.stop, 0)
        return Prompt(ids, spec.stop, 0, 0, self._engine.decode(ids), self._engine.decode(ids[:1]))

    def overheads(self) -> dict[str, int]:
        """``mode/language`` → tokens of the template around an empty input: what a prompt costs beside itself."""
        return {
            f"{name}/{language}": len(self._ids(mode.templates[language], (), ""))
            for name, mode in self._modes.by_name.items()
            for language in LANGUAGES
        }

    def _stop(self, spec: JobSpec, template: Template) -> tuple[str, ...]:
        # A chat model ends its turn with a token of its own; a plain one would write the next turn itself.
        return spec.stop if self._engine.info.has_chat_template else (*spec.stop, *template.stop)

    def _beginning(self, template: Template) -> tuple[int, ...]:
        """The ids that every prompt without history begins with, whatever the input is."""
        if template not in self._beginnings:
            empty, other = self._ids(template, (), ""), self._ids(template, (), "x")
            self._beginnings[template] = empty[: _common(empty, other)]
        return self._beginnings[template]

    def _ids(self, template: Template, turns: Sequence[Turn], text: str) -> tuple[int, ...]:
        pieces = self._engine.chat_pieces(_messages(template, turns, text)) or plain_pieces(template, turns, text)
        return self._engine.encode(pieces)


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many ids two prompts have in common, from the start."""
    same = (at for at, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    return next(same, min(len(first), len(second)))


def _messages(template: Template, turns: Sequence[Turn], text: str) -> list[Message]:
    messages = [Message("system", template.system)]
    for turn in turns:
        messages += [Message("user", turn.input), Message("assistant", turn.output)]
    return [*messages, Message("user", text)]


def plain_pieces(template: Template, turns: Sequence[Turn], text: str) -> list[Piece]:
    """The whole text for a model without a chat template. Slots are found in the template alone, in one pass, so
    braces in what users wrote are never read as slots."""
    history = [piece for turn in turns for piece in _fill(template.turn, {"input": turn.input, "output": turn.output})]
    return _fill(
        template.template,
        {"input": text},
        trusted={"system": [Piece(template.system, trusted=True)], "history": history},
    )


def _fill(text: str, users: dict[str, str], trusted: dict[str, list[Piece]] | None = None) -> list[Piece]:
    pieces: list[Piece] = []
    end = 0
    for slot in SLOT.finditer(text):
        pieces.append(Piece(text[end : slot.start()], trusted=True))
        pieces += [Piece(users[slot[1]])] if slot[1] in users else (trusted or {})[slot[1]]
        end = slot.end()
    return [piece for piece in (*pieces, Piece(text[end:], trusted=True)) if piece.text]
