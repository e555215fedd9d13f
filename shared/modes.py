"""Prompt modes: read from a TOML file (``modes.toml``) that an operator extends without touching code."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from shared.errors import ConfigurationError, UnknownModeError

LANGUAGES = ("en", "zh-Hant")
SLOT = re.compile(r"\{(system|history|input|output)\}")
BUNDLED = Path(__file__).with_name("modes.toml")


class Template(BaseModel):
    """A mode in one language. See the head of ``modes.toml`` for what the fields mean."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    system: str = Field(min_length=1)
    template: str
    turn: str
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()

    @field_validator("template")
    @classmethod
    def _template_has_input(cls, value: str) -> str:
        return _require_slots(value, required=("input",), allowed=("system", "history", "input"))

    @field_validator("turn")
    @classmethod
    def _turn_has_both(cls, value: str) -> str:
        return _require_slots(value, required=("input", "output"), allowed=("input", "output"))


def _require_slots(value: str, *, required: tuple[str, ...], allowed: tuple[str, ...]) -> str:
    slots = SLOT.findall(value)
    for name in required:
        if slots.count(name) != 1:
            raise ValueError(f"needs the slot {{{name}}} exactly once")
    if len(set(slots)) != len(slots) or not set(slots) <= set(allowed):
        raise ValueError(f"may have each of {', '.join('{' + name + '}' for name in allowed)} at most once")
    return value


@dataclass(frozen=True, slots=True)
class Mode:
    """A mode: its description, and a template a language."""

    name: str
    description: str
    templates: Mapping[str, Template]


@dataclass(frozen=True, slots=True)
class Modes:
    """All configured modes by name, in the order of the file."""

    by_name: Mapping[str, Mode]

    def __getitem__(self, name: str) -> Mode:
        """Raises: UnknownModeError, naming the modes there are."""
        if name not in self.by_name:
            raise UnknownModeError(f"No such mode; there are: {', '.join(self.by_name)}.", param="mode")
        return self.by_name[name]


class _Table(BaseModel):
    """A mode as the file has it."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    description: str
    en: Template
    zh_hant: Template = Field(alias="zh-Hant")


def load_modes(path: Path | None = None) -> Modes:
    """Read the modes. Raises: ConfigurationError, naming the file, the mode and what is wrong."""
    path = path or BUNDLED
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        parsed = {name: _Table.model_validate(table) for name, table in tables.items()}
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, ValidationError) as error:
        raise ConfigurationError(f"Cannot read the modes of {path}: {error}") from error
    if not parsed:
        raise ConfigurationError(f"{path} has no mode.")
    for name in parsed:
        if not re.fullmatch(r"[a-z0-9_-]{1,64}", name):
            raise ConfigurationError(f"{path}: a mode's name is 1 to 64 of a-z, 0-9, _ and -; {name!r} is not.")
    return Modes(MappingProxyType({name: _mode(name, table) for name, table in parsed.items()}))


def _mode(name: str, table: _Table) -> Mode:
    return Mode(name, table.description, MappingProxyType({"en": table.en, "zh-Hant": table.zh_hant}))


CHINESE = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
WORD = re.compile(r"[^\W\d_\u3400-\u4dbf\u4e00-\u9fff]+")


def language_of(text: str) -> str:
    """``zh-Hant`` where there are at least as many Chinese characters as words of other letters, else ``en``.

    A character says about as much as a word, so a Chinese sentence with product names in it stays Chinese, and an English
    one that names a shop in Chinese stays English.
    """
    chinese = len(CHINESE.findall(text))
    return "zh-Hant" if chinese and chinese >= len(WORD.findall(text)) else "en"
