"""A small text grammar: word pools and scenes from TOML files, and a `Draw` that fills their slots."""

import random
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.demo.noise import MAKERS

FOLDER = Path(__file__).parent / "corpus"
FILES = {"en": "en", "zh-Hant": "zh"}
SLOT = re.compile(r"\{([a-z_]+)(#\d)?(?:\.([A-Za-z]+)(\d)?)?\}")
CHOICE = re.compile(r"\[([^\[\]]*\|[^\[\]]*)\]")
ARTICLE = re.compile(r"\b([Aa]) (?=(?:[aeio]|u(?!ni|s[ei])|LED)\w*)")

Record = dict[str, Any]
Pools = dict[str, list[Any]]


@dataclass(frozen=True)
class Exchange:
    """What a person may ask, and what the model may answer."""

    ask: list[str]
    answer: list[str]


@dataclass(frozen=True)
class Scene(Exchange):
    """An exchange of one mode, how often it comes (`weight`), and the later turns that fit it (`follow`)."""

    mode: str
    weight: int
    kind: str = "plain"
    follow: list[Exchange] = field(default_factory=list)


@dataclass(frozen=True)
class Language:
    """All that the grammar knows in one language."""

    code: str
    pools: Pools
    scenes: list[Scene]


def third_person(clause: str) -> str:
    """'keep you dry' in, 'keeps you dry' out."""
    verb, _, rest = clause.partition(" ")
    if verb.endswith("y") and verb[-2] not in "aeou":
        verb = verb[:-1] + "ie"
    elif verb.endswith(("sh", "ch", "ss", "o")):
        verb += "e"
    return f"{verb}s {rest}"


def with_forms(record: Record) -> Record:
    """An English product record in, the same with the words that agree with its number out."""
    many = str(record["n"]).endswith("s")
    words = ("they", "They", "them", "are", "go", "") if many else ("it", "It", "it", "is", "goes", "a ")
    forms: Record = dict(zip(("they", "They", "them", "are", "go", "a"), words, strict=True))
    forms["fs"] = record["f"] if many else [third_person(clause) for clause in record["f"]]
    return record | forms


def to_scene(table: Record) -> Scene:
    """One [[scene]] table in, a `Scene` out."""
    follow = [Exchange(later["ask"], later["answer"]) for later in table.get("follow", [])]
    return Scene(
        table["ask"], table["answer"], table["mode"], table.get("weight", 1), table.get("kind", "plain"), follow
    )


def load_language(code: str) -> Language:
    """'en' or 'zh-Hant' in, its pools and scenes out."""
    stem = FILES[code]
    pools: Pools = tomllib.loads((FOLDER / f"{stem}_pools.toml").read_text("utf-8"))
    if code == "en":
        pools["product"] = [with_forms(record) for record in pools["product"]]
    scenes = tomllib.loads((FOLDER / f"{stem}_scenes.toml").read_text("utf-8"))["scene"]
    return Language(code, pools, [to_scene(table) for table in scenes])


def choose(text: str, rng: random.Random) -> str:
    """Text with [a|b] in, the text with one side of every choice taken out, innermost first."""
    while match := CHOICE.search(text):
        text = text[: match.start()] + rng.choice(match[1].split("|")) + text[match.end() :]
    return text


class Draw:
    """Fills slots and remembers what it drew, so that an answer speaks of what was asked."""

    def __init__(self, language: Language, rng: random.Random) -> None:
        self._language = language
        self._rng = rng
        self._bound: dict[str, Any] = {}

    def say(self, texts: list[str]) -> str:
        """Texts to pick from in, one of them with all slots filled out."""
        text = self._fill(choose(self._rng.choice(texts), self._rng))
        return ARTICLE.sub(r"\1n ", text) if self._language.code == "en" else text

    def _fill(self, text: str) -> str:
        """Text with slots in, text without them out; what a maker in `MAKERS` gives is never read as a slot."""
        return SLOT.sub(lambda match: self._value(*match.groups()), text)

    def _value(self, pool: str, number: str | None, part: str | None, which: str | None) -> str:
        """The parts of a slot in, its text out."""
        key = pool + (number or "")
        entry = self._entry(pool, key)
        if isinstance(entry, str):
            return entry
        value = entry[part]
        if isinstance(value, list):
            value = value[self._order(key, str(part), len(value))[int(which or 1) - 1]]
        return self._fill(choose(value, self._rng))

    def _entry(self, pool: str, key: str) -> Any:
        """A pool's name and the name of this draw in, the drawn entry out, the same at every call."""
        if key not in self._bound:
            others = [value for name, value in self._bound.items() if name.partition("#")[0] == pool]
            self._bound[key] = self._fresh(pool, others)
        return self._bound[key]

    def _fresh(self, pool: str, others: list[Any]) -> Any:
        """A pool and the entries already taken from it in, another entry out (the same only after ten tries)."""
        for _ in range(10):
            if pool in MAKERS:
                entry: Any = MAKERS[pool](self._language.code, self._rng, self._fresh_text)
            else:
                entry = self._rng.choice(self._language.pools[pool])
                entry = self._fill(choose(entry, self._rng)) if isinstance(entry, str) else entry
            if entry not in others:
                break
        return entry

    def _fresh_text(self, text: str) -> str:
        """A text with slots in, the text filled by a new draw out, so that junk shares nothing with the answer."""
        return Draw(self._language, self._rng).say([text])

    def _order(self, key: str, part: str, count: int) -> list[int]:
        """A draw, a field and its length in, the order of its values for this draw out ('f' and 'fs' share it)."""
        name = f"{key}.{'f' if part == 'fs' else part}"
        if name not in self._bound:
            self._bound[name] = self._rng.sample(range(count), count)
        order: list[int] = self._bound[name]
        return order
