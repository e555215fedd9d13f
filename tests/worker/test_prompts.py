"""Prompts: template, conversation, input; and user text that stays text."""

from __future__ import annotations

import pytest

from shared.errors import ContextLengthError
from shared.job import JobSpec, Turn
from shared.modes import Template, load_modes
from worker.engine.factory import EngineConfig, build_engine
from worker.engine.protocol import Engine, Piece
from worker.prompts import PromptBuilder, plain_pieces

TEMPLATE = Template(system="S", template="{system}|{history}Q: {input}|A:", turn="q {input} a {output};", stop=("|Q:",))


def text_of(engine: Engine, ids: tuple[int, ...]) -> str:
    return bytes(ids).decode()


def test_slots_are_filled_in_order():
    turns = [Turn("j1", "i1", "o1", "general", 0), Turn("j2", "i2", "o2", "general", 0)]
    assert "".join(piece.text for piece in plain_pieces(TEMPLATE, turns, "now")) == "S|q i1 a o1;q i2 a o2;Q: now|A:"


@pytest.mark.parametrize(
    "text", ["{input}", "{history}{system}", "{{7*7}}", "{% raw %}", "%s", "\\1 \\g<0>", "<|end|>", "${x}"]
)
def test_template_syntax_in_user_text_stays_text(text: str):
    turns = [Turn("j1", text, text, "general", 0)]
    pieces = plain_pieces(TEMPLATE, turns, text)
    assert "".join(piece.text for piece in pieces) == f"S|q {text} a {text};Q: {text}|A:"
    assert [piece for piece in pieces if not piece.trusted] == [Piece(text)] * 3


def test_every_mode_and_language_renders(echo: Engine):
    builder = PromptBuilder(echo, load_modes())
    for name, mode in load_modes().by_name.items():
        for prompt, language in (("Hello there", "en"), ("你好，請問", "zh-Hant")):
            built = builder.build(JobSpec(prompt, name, "demo"))
            text = text_of(echo, built.ids)
            assert prompt in text
            assert mode.templates[language].system in text
            assert built.stop == mode.templates[language].stop


def test_the_clients_stop_strings_come_with_the_modes(echo: Engine):
    built = PromptBuilder(echo, load_modes()).build(JobSpec("hi", "support", "demo", stop=("END",)))
    assert built.stop == ("END", "\nCustomer:")


def test_overheads_are_what_a_prompt_costs_beside_itself(echo: Engine):
    builder = PromptBuilder(echo, load_modes())
    overheads = builder.overheads()
    assert len(overheads) == 8
    assert len(builder.build(JobSpec("hello", "general", "demo")).ids) == overheads["general/en"] + 5


def small_context(tokens: int) -> Engine:
    engine = build_engine(EngineConfig(engine="echo", slots=1, echo_context=tokens))
    engine.start()
    return engine


def test_the_newest_turns_that_fit_are_kept():
    engine = small_context(400)
    try:
        builder = PromptBuilder(engine, load_modes())
        turns = [Turn(f"j{n}", f"question {n} " + "x" * 40, f"answer {n}", "general", n) for n in range(10)]
        built = builder.build(JobSpec("now", "general", "demo", max_length=100), turns)
        text = text_of(engine, built.ids)
        assert 0 < built.turns < 10
        assert len(built.ids) <= 300
        kept = [n for n in range(10) if f"question {n} " in text]
        assert kept == list(range(10 - built.turns, 10))
        one_more = len(f"User: question 0 {'x' * 40}\nAssistant: answer 0\n\n")
        assert len(built.ids) + one_more > 300
    finally:
        engine.shutdown()


def test_a_prompt_that_cannot_fit_is_refused():
    engine = small_context(200)
    try:
        builder = PromptBuilder(engine, load_modes())
        with pytest.raises(ContextLengthError, match="200 tokens") as error:
            builder.build(JobSpec("x" * 150, "general", "demo", max_length=100), [Turn("j", "a", "b", "general", 0)])
        assert error.value.param == "prompt"
    finally:
        engine.shutdown()


def test_shared_is_what_comes_before_anything_of_a_users(echo: Engine):
    builder = PromptBuilder(echo, load_modes())
    template = load_modes()["support"].templates["en"]
    before = "".join(piece.text for piece in plain_pieces(template, (), "\0")).split("\0")[0]
    assert len(before) > 20
    for text in ("hello", before, "\nCustomer:", "{input}"):
        built = builder.build(JobSpec(text, "support", "demo"))
        assert text_of(echo, built.ids[: built.shared_tokens]) == before
    turn = Turn("j1", "what I asked", "what it said", "support", 0)
    built = builder.build(JobSpec("hello", "support", "demo"), (turn,))
    shared = text_of(echo, built.ids[: built.shared_tokens])
    assert before.startswith(shared)
    assert len(shared) > 20
    assert "what" not in shared
