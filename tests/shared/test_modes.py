"""The modes file: what is in the bundled one, and what an operator gets told about a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import ConfigurationError, UnknownModeError
from shared.modes import LANGUAGES, language_of, load_modes

GOOD = """
[poem]
description = "Writes poems."
[poem.en]
system = "You write poems."
template = "{system}\\n{history}{input}\\n"
turn = "{input}\\n{output}\\n"
[poem.zh-Hant]
system = "你寫詩。"
template = "{input}"
turn = "{input}{output}"
"""


def test_the_bundled_modes():
    modes = load_modes()
    assert list(modes.by_name) == ["general", "recommendation", "support", "ecommerce"]
    for mode in modes.by_name.values():
        assert set(mode.templates) == set(LANGUAGES)
        for template in mode.templates.values():
            assert "{input}" in template.template
            assert "{history}" in template.template


def test_an_unknown_mode_names_those_there_are():
    with pytest.raises(UnknownModeError, match="general, recommendation, support, ecommerce") as error:
        load_modes()["poetry"]
    assert error.value.param == "mode"


def test_an_operators_file(tmp_path: Path):
    path = tmp_path / "modes.toml"
    path.write_text(GOOD, encoding="utf-8")
    assert load_modes(path)["poem"].templates["zh-Hant"].system == "你寫詩。"


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("{history}{input}", "{history}", "exactly once"),
        ("{history}{input}", "{input}{input}", "exactly once"),
        ("{history}{input}", "{output}{input}", "at most once"),
        ("{input}\\n{output}", "{input}", "exactly once"),
        ('system = "You write poems."\n', "", "en.system"),
        ("[poem.zh-Hant]", "[poem.fr]", "zh-Hant"),
        ("[poem]", "[poem", "line 2"),
        ("description", "describtion", "description"),
        ("[poem", '["Poem!"', "Poem!"),
    ],
)
def test_a_wrong_file_is_refused_and_says_where(tmp_path: Path, old: str, new: str, named: str):
    path = tmp_path / "modes.toml"
    path.write_text(GOOD.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigurationError) as error:
        load_modes(path)
    assert named in error.value.message
    assert str(path) in error.value.message


def test_no_file_and_an_empty_one(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="nowhere"):
        load_modes(tmp_path / "nowhere.toml")
    (tmp_path / "empty.toml").touch()
    with pytest.raises(ConfigurationError, match="no mode"):
        load_modes(tmp_path / "empty.toml")


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Where is my parcel?", "en"),
        ("我的包裹在哪裡？", "zh-Hant"),
        ("請介紹 SmartTextGen Pro 2000", "zh-Hant"),
        ("The shop is called 山屋 and it sells tents and boots", "en"),
        ("12345 !?", "en"),
        ("", "en"),
        ("Où est mon colis ?", "en"),
    ],
)
def test_the_language_of_a_prompt(text: str, language: str):
    assert language_of(text) == language
