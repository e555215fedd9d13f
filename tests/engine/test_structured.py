"""Structured output: every answer that ended by itself matches, whatever the model says and whoever runs beside it."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
from transformers import PreTrainedTokenizerFast

from shared.errors import GenerationError, InvalidRequestError
from tests.engine.conftest import Listener, greedy, run, submit
from worker.engine.protocol import Engine, EngineRequest, FinishReason, Grammar, SamplingParams, Structure
from worker.engine.structured import StructureCompiler

PROMPT = tuple(range(20, 60))
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
SCHEMAS: list[Any] = [
    PERSON,
    {"enum": ["red", "green", 3, None]},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3},
    {"type": "string", "pattern": "^[A-Z]{2}[0-9]{3}$"},
    {"$defs": {"n": {"type": "integer", "minimum": 1, "maximum": 9}}, "type": "array", "items": {"$ref": "#/$defs/n"}, "maxItems": 2},
    {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 99},
    {"anyOf": [{"type": "integer", "maximum": 99, "minimum": 0}, {"type": "null"}]},
]  # fmt: skip
REGEXES = [r"[0-9]{3}-[0-9]{4}", r"(yes|no|maybe)", r"[一-鿿]{2,4}", r"a{2,6}(b|c)?", r"\d{4}-\d{2}-\d{2}"]
# Token 0 ends a text; the random models have no wish to, so that many ends need a push.
ENDING = ((0, 3.0),)


@pytest.fixture
def engine(shared_engine: Callable[[str], Engine]) -> Engine:
    return shared_engine("gpt2")


def json_schema(schema: Any) -> Structure:
    return Structure(Grammar.JSON_SCHEMA, json.dumps(schema))


def structured(structure: Structure, **changes: Any) -> SamplingParams:
    values = {"max_tokens": 90, "temperature": 1.0, "structure": structure, "logit_bias": ENDING}
    return SamplingParams(**(values | changes))


def matches(structure: Structure, text: str) -> None:
    if structure.grammar is Grammar.REGEX:
        assert re.fullmatch(structure.text, text), text
    else:
        jsonschema.validate(json.loads(text), json.loads(structure.text))


def test_answers_match(engine: Engine) -> None:
    structures = [*map(json_schema, SCHEMAS), *(Structure(Grammar.REGEX, text) for text in REGEXES)]
    handles = []
    for at, structure in enumerate(structures):
        for seed in range(5):
            params = structured(structure, seed=seed, temperature=(0.0, 0.7, 1.5)[(at + seed) % 3], n=1 + seed % 2)
            handles.append((structure, submit(engine, PROMPT[: 2 + at], params)))
    ended = 0
    for structure, handle in handles:
        for completion in handle.result(60).completions:
            if completion.finish_reason is FinishReason.STOP:
                ended += 1
                matches(structure, completion.text)
    assert ended > 60, "too few ended to prove anything"


def test_any_json(engine: Engine) -> None:
    results = [run(engine, PROMPT, structured(json_schema({}), seed=seed)).completions[0] for seed in range(12)]
    texts = [one.text for one in results if one.finish_reason is FinishReason.STOP]
    assert texts
    for text in texts:
        json.loads(text)


def test_neighbours_stay_as_they_are_and_so_does_a_structured_row(engine: Engine) -> None:
    plain = [greedy(30), SamplingParams(max_tokens=30, seed=4, top_p=0.9, ignore_eos=True)]
    special = [
        structured(json_schema(PERSON), seed=9),
        structured(Structure(Grammar.REGEX, REGEXES[0]), seed=9, top_p=0.8),
    ]
    alone = [run(engine, PROMPT, params) for params in [*plain, *special]]
    handles = [submit(engine, PROMPT, params) for params in [*plain, *special] * 3]
    assert [handle.result(60) for handle in handles] == alone * 3


def test_each_completion_has_its_own_place_in_the_structure(engine: Engine) -> None:
    several = run(engine, PROMPT, structured(json_schema(PERSON), seed=30, n=3)).completions
    for index, completion in enumerate(several):
        single = run(engine, PROMPT, structured(json_schema(PERSON), seed=30 + index)).completions[0]
        assert completion.token_ids == single.token_ids


def test_a_complete_structure_ends_the_answer(engine: Engine) -> None:
    params = structured(Structure(Grammar.REGEX, "(cat|dog)"), logit_bias=())
    completion = run(engine, PROMPT, params).completions[0]
    assert completion.text in ("cat", "dog")
    assert (completion.finish_reason, completion.token_ids[-1]) == (FinishReason.STOP, 0)


def test_max_tokens_may_cut_it(engine: Engine) -> None:
    completion = run(engine, PROMPT, structured(Structure(Grammar.REGEX, "[ab]{40}"), max_tokens=3)).completions[0]
    assert completion.finish_reason is FinishReason.LENGTH
    assert re.fullmatch("[ab]{1,40}", completion.text)


def test_min_tokens_holds_the_end_back_as_long_as_the_structure_goes_on(engine: Engine) -> None:
    eager = {"logit_bias": ((0, 100.0),), "seed": 1}
    short = run(engine, PROMPT, structured(Structure(Grammar.REGEX, "a+"), **eager)).completions[0]
    assert len(short.token_ids) == 2
    longer = run(engine, PROMPT, structured(Structure(Grammar.REGEX, "a+"), min_tokens=7, **eager)).completions[0]
    assert len(longer.token_ids) == 8
    assert re.fullmatch("a{7,}", longer.text)
    complete = run(engine, PROMPT, structured(Structure(Grammar.REGEX, "ab"), min_tokens=9, max_tokens=12)).completions[
        0
    ]
    assert complete.text == "ab"


def test_ignore_eos_fills_up_with_ends_and_adds_no_text(engine: Engine) -> None:
    params = structured(Structure(Grammar.REGEX, "ab"), max_tokens=8, ignore_eos=True)
    completion = run(engine, PROMPT, params).completions[0]
    assert (completion.text, len(completion.token_ids), set(completion.token_ids[2:])) == ("ab", 8, {0})


def test_it_streams(engine: Engine) -> None:
    heard = Listener()
    completion = run(engine, PROMPT, structured(json_schema(PERSON), seed=2, logprobs=1), heard).completions[0]
    assert heard.text() == completion.text
    assert completion.places is not None
    assert len(completion.places) == len(completion.token_ids)


REFUSED = [
    (Grammar.JSON_SCHEMA, "{"), (Grammar.JSON_SCHEMA, "[]"), (Grammar.JSON_SCHEMA, '{"type": "strng"}'),
    (Grammar.JSON_SCHEMA, '{"minimum": NaN}'), (Grammar.JSON_SCHEMA, "[" * 60_000),
    (Grammar.JSON_SCHEMA, '{"type": "array", "uniqueItems": true}'), (Grammar.JSON_SCHEMA, '{"not": {"type": "null"}}'),
    (Grammar.JSON_SCHEMA, '{"if": {"type": "null"}, "then": {"const": 1}}'),
    (Grammar.JSON_SCHEMA, '{"type": "array", "uniqueItems": true, "x-guidance": {"lenient": true}}'),
    (Grammar.JSON_SCHEMA, '{"oneOf": [{"minimum": 1}, {"maximum": 2}]}'),
    (Grammar.JSON_SCHEMA, '{"type": "string", "format": "color"}'),
    (Grammar.JSON_SCHEMA, '{"$ref": "https://example.com/schema.json"}'), (Grammar.JSON_SCHEMA, '{"$ref": "#/nope"}'),
    (Grammar.JSON_SCHEMA, '{"type": "integer", "minimum": 5, "maximum": 4}'), (Grammar.JSON_SCHEMA, "false"),
    (Grammar.REGEX, "("), (Grammar.REGEX, "(?=a)b"), (Grammar.REGEX, r"(a)\1"), (Grammar.REGEX, "(" * 30_000 + ")" * 30_000),
    (Grammar.REGEX, r"[^\s\S]"), (Grammar.JSON_SCHEMA, '{"$ref": "#"}'), (Grammar.JSON_SCHEMA, "[" * 300 + "]" * 300),
    (Grammar.JSON_SCHEMA, '{"not": ' * 2000 + "{}" + "}" * 2000),
    (Grammar.JSON_SCHEMA, '{"type": "integer", "multipleOf": 999983}'),
    (Grammar.JSON_SCHEMA, '{"allOf": [{"multipleOf": 997}, {"multipleOf": 991}], "type": "integer"}'),
]  # fmt: skip


@pytest.mark.parametrize(("grammar", "text"), REFUSED, ids=lambda value: str(value)[:30])
def test_refuses_what_it_cannot_promise(engine: Engine, grammar: Grammar, text: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        engine.submit(EngineRequest(PROMPT, structured(Structure(grammar, text))))
    assert caught.value.param == "structure"
    assert len(caught.value.message) < 500


def test_what_grows_too_complex_fails_its_own_request(engine: Engine) -> None:
    alone = run(engine, PROMPT, greedy(40))
    bomb = Structure(Grammar.REGEX, "(((a{100}){100}){100})")
    neighbour = submit(engine, PROMPT, greedy(40))
    with pytest.raises(GenerationError):
        run(engine, PROMPT, structured(bomb, seed=1))
    assert neighbour.result(30) == alone
    assert engine.healthy()


def test_compiled_once_however_many_ask(tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = StructureCompiler(lambda: tokenizer.backend_tokenizer.to_str().encode(), len(tokenizer), {0})
    compiled: list[Structure] = []
    compile_ = compiler._compile

    def counted(structure: Structure) -> Any:
        compiled.append(structure)
        return compile_(structure)

    monkeypatch.setattr(compiler, "_compile", counted)
    threads = [threading.Thread(target=compiler.check, args=(json_schema(PERSON),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    compiler.matcher(json_schema(PERSON))
    assert compiled == [json_schema(PERSON)]
    for at in range(200):
        compiler.check(Structure(Grammar.REGEX, f"a{{{at}}}"))
    compiler.check(json_schema(PERSON))
    assert compiled.count(json_schema(PERSON)) == 2, "the oldest leave"
    for _ in range(2):
        with pytest.raises(InvalidRequestError):
            compiler.check(Structure(Grammar.REGEX, "("))
    assert compiled.count(Structure(Grammar.REGEX, "(")) == 2, "a refusal is not kept"


def test_a_model_without_an_end_has_no_structures(tokenizer: PreTrainedTokenizerFast) -> None:
    compiler = StructureCompiler(lambda: tokenizer.backend_tokenizer.to_str().encode(), len(tokenizer), ())
    with pytest.raises(InvalidRequestError):
        compiler.check(json_schema(PERSON))
