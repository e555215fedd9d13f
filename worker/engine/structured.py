"""Answers that match a JSON schema or a regular expression: which tokens may come next, by llguidance (docs/decisions/0016).

A structure is compiled in the thread that submits the request, once however many ask for it at the same time, and kept. Each row has a
matcher of its own, and keeps it wherever the row goes. Compiling and every step are bounded by the library's own limits.
"""

from __future__ import annotations

import json
import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from decimal import Decimal
from threading import Lock
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from shared.errors import GenerationError, InvalidRequestError
from worker.engine.protocol import Grammar, Structure

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

logger = logging.getLogger(__name__)

_KEPT = 128  # compiled structures
# A step that meets these ends its own answer. Of what was tried (docs/decisions/0016) the worst step took 0.2 s, once.
_LIMITS = {
    "initial_lexer_fuel": 300_000,
    "step_lexer_fuel": 50_000,
    "max_lexer_states": 20_000,
    "verbose_errors": False,
}
_LARGEST_MULTIPLE = 10_000  # the library makes a state for each remainder
# A model that repeats itself would fill an answer with white space. ``lenient`` would ignore what the library cannot do; a schema
# may not ask for it.
_JSON_OPTIONS = {"lenient": False, "coerce_one_of": False, "whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,32}"}

Words = npt.NDArray[np.int32]


class StructureCompiler:
    """Compiles for one model's vocabulary. Any thread.

    tokenizer_json: gives Hugging Face's ``tokenizer.json``. vocab_size: tokens that the model has logits for. end_tokens: at least one, else
    no structure can be asked for, as nothing could end it.
    """

    def __init__(self, tokenizer_json: Callable[[], bytes], vocab_size: int, end_tokens: Collection[int]) -> None:
        self._tokenizer_json = tokenizer_json
        self._vocab_size = vocab_size
        self._end_tokens = sorted(end_tokens)
        self._tokenizer: LLTokenizer | None = None
        self._tokenizer_lock = Lock()
        self._lock = Lock()
        self._kept: OrderedDict[Structure, Future[LLMatcher]] = OrderedDict()

    def check(self, structure: Structure) -> None:
        """Compile it, or find it compiled.

        Raises: InvalidRequestError where it is no JSON schema or regular expression, asks for what the library cannot promise, is too
        complex, or cannot be had of this model.
        """
        self._compiled(structure)

    def matcher(self, structure: Structure) -> Matcher:
        """A new one, at its beginning. Raises as ``check``."""
        return Matcher(self._compiled(structure).deep_copy(), self._end_tokens)

    def _compiled(self, structure: Structure) -> LLMatcher:
        with self._lock:
            future = self._kept.get(structure)
            mine = future is None
            if future is None:
                future = self._kept[structure] = Future()
            self._kept.move_to_end(structure)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        if mine:
            try:
                future.set_result(self._compile(structure))
            except BaseException as error:  # noqa: BLE001  # everyone who waits for it gets it below
                future.set_exception(error)
                with self._lock:
                    self._kept.pop(structure, None)
        return future.result()

    def _compile(self, structure: Structure) -> LLMatcher:
        llguidance = _library()
        if structure.grammar is Grammar.REGEX:
            grammar = llguidance.LLMatcher.grammar_from_regex(structure.text)
        else:
            grammar = _json_grammar(structure.text)
        limits = llguidance.LLParserLimits(**_LIMITS)
        matcher: LLMatcher = llguidance.LLMatcher(self._llg_tokenizer(), grammar, log_level=0, limits=limits)
        if matcher.is_error():
            raise _refused(matcher.get_error())
        warnings = matcher.get_grammar_warnings()
        if warnings:
            raise _refused("; ".join(map(str, warnings)))
        # What cannot even begin is refused here, and not on the engine's thread.
        first = matcher.deep_copy()
        if not any(first.compute_bitmask()) or first.is_error():
            raise _refused("nothing matches it, or it is too complex")
        return matcher

    def _llg_tokenizer(self) -> LLTokenizer:
        with self._tokenizer_lock:
            if self._tokenizer is None:
                self._tokenizer = self._made_tokenizer()
            return self._tokenizer

    def _made_tokenizer(self) -> LLTokenizer:
        if not self._end_tokens:
            raise _refused("the model has no token that ends a text")
        try:
            text = self._tokenizer_json().decode()
            made: LLTokenizer = _library().LLTokenizer(text, n_vocab=self._vocab_size, eos_token=self._end_tokens)
        except Exception as error:
            logger.warning("There is no structured output with this model's tokenizer.", exc_info=True)
            raise _refused("it cannot be had with this model's tokenizer") from error
        return made


class Matcher:
    """Where one row is in its structure. ``llg``: the library's matcher."""

    def __init__(self, llg: LLMatcher, end_tokens: Collection[int]) -> None:
        self.llg = llg
        self._end_tokens = frozenset(end_tokens)

    def take(self, token: int) -> None:
        """A token that was chosen. An error shows when the next one is to be chosen."""
        if not (token in self._end_tokens and self.llg.is_stopped()):
            self.llg.consume_token(token)

    def fill(self, mask: Words, without: Collection[int] = ()) -> None:
        """Set the bits of ids that may come next, and clear all others.

        mask: ``[ceil(vocab / 32)]``, lowest bit first. without: ids that may not come now, unless nothing else may.

        Raises: GenerationError where the structure became too complex.
        """
        self.llg.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        if self.llg.is_error():
            raise GenerationError("The structure of this answer has become too complex.")
        if without:
            before = mask.copy()
            ids = np.fromiter(without, dtype=np.int64)
            np.bitwise_and.at(mask, ids >> 5, ~(np.int32(1) << (ids & 31).astype(np.int32)))
            if not mask.any():
                mask[:] = before


def _json_grammar(text: str) -> str:
    try:
        schema: Any = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _refused(f"the schema is no JSON: {error}") from error
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise _refused("nothing matches it" if schema is False else "a schema is an object")
    try:
        if math.lcm(*_multiples(schema)) > _LARGEST_MULTIPLE:
            raise _refused(f"multipleOf over {_LARGEST_MULTIPLE}")
        return str(_library().LLMatcher.grammar_from_json_schema(schema, overrides=_JSON_OPTIONS))
    except (ValueError, RecursionError) as error:
        raise _refused(str(error)) from error


def _multiples(schema: Any) -> Iterator[int]:
    """Every ``multipleOf`` in it, without its power of ten."""
    if isinstance(schema, dict):
        value = schema.get("multipleOf")
        if type(value) in (int, float):
            yield int("".join(map(str, Decimal(repr(value)).normalize().as_tuple().digits)))
        for child in schema.values():
            yield from _multiples(child)
    elif isinstance(schema, list):
        for child in schema:
            yield from _multiples(child)


def _library() -> ModuleType:
    """Imported when the first structure is asked for: an engine runs without the package."""
    try:
        import llguidance  # noqa: PLC0415  # the reason above
    except ImportError as error:
        raise _refused("this worker has no llguidance installed") from error
    return llguidance


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not in JSON")


def _refused(why: str) -> InvalidRequestError:
    first = next((line.strip() for line in why.splitlines() if line.strip()), "it is not understood")
    return InvalidRequestError(f"This structure cannot be promised: {first[:300]}", param="structure")
