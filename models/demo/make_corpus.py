"""Writes the demo model's training talk: python -m models.demo.make_corpus --count 90000 --seed 1 --out corpus.jsonl

Every line is {"mode", "language", "learn_from", "messages": [{"role", "content"}, ...]} and begins with the mode's
system text from shared/modes.toml. Answers before message `learn_from` are another mode's: context, not to be learnt.
The same seed gives the same lines.
"""

import argparse
import json
import random
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models.demo.grammar import Draw, Language, Scene, load_language
from models.demo.noise import as_typed

ROOT = Path(__file__).resolve().parents[2]
MODES_FILE = ROOT / "shared" / "modes.toml"
LANGUAGES = ("en", "zh-Hant")
ELSEWHERE = {
    "recommendation": ["support"],
    "ecommerce": ["support", "general"],
    "support": ["recommendation", "ecommerce"],
    "general": ["ecommerce"],
}

COPIED = re.compile(r"\{(brand|order|subject|han|food|odd_product)\b")
STRANGE = 0.12  # the share of talks that begin in another mode or language

Message = dict[str, str]
Pair = tuple[str, str]


def load_systems(path: Path = MODES_FILE) -> dict[str, dict[str, str]]:
    """The modes file in, {mode: {language: system text}} out."""
    modes: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    return {mode: {code: table[code]["system"] for code in LANGUAGES} for mode, table in modes.items()}


class Talks:
    """Makes talks of every mode and language from one seed."""

    def __init__(self, seed: int, copying: int = 1) -> None:
        self._rng = random.Random(seed)
        self._copying = copying
        self._systems = load_systems()
        self._languages = {code: load_language(code) for code in LANGUAGES}

    def stream(self, count: int) -> Iterator[dict[str, Any]]:
        """How many in, that many talks out."""
        for _ in range(count):
            mode, code = self._rng.choice(list(self._systems)), self._rng.choice(LANGUAGES)
            yield self._talk(mode, self._languages[code])

    def _talk(self, mode: str, language: Language) -> dict[str, Any]:
        """A mode and a language in, one talk out."""
        strange = self._strange_turns() if self._rng.random() < STRANGE else []
        messages: list[Message] = [{"role": "system", "content": self._systems[mode][language.code]}]
        for ask, answer in strange + self._turns(mode, language):
            messages += [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]
        return {"mode": mode, "language": language.code, "learn_from": 1 + 2 * len(strange), "messages": messages}

    def _strange_turns(self) -> list[Pair]:
        """Earlier turns of any mode and language out, for people who change either within a talk."""
        mode, code = self._rng.choice(list(self._systems)), self._rng.choice(LANGUAGES)
        return self._exchanges(mode, self._languages[code], self._rng.choice([0, 0, 1]))

    def _turns(self, mode: str, language: Language) -> list[Pair]:
        """A mode and a language in, the turns of a talk out: most are short, a few fill the whole context."""
        kind = self._rng.random()
        if kind < 0.6:
            return self._exchanges(mode, language, 0)
        if kind < 0.97:
            earlier = self._exchanges(mode, language, 0) if self._rng.random() < 0.35 else []
            return earlier + self._exchanges(mode, language, self._rng.choice([1, 1, 1, 2, 2, 3]))
        parts = [self._exchanges(mode, language, 2) for _ in range(self._rng.randint(2, 5))]
        return [pair for part in parts for pair in part]

    def _exchanges(self, mode: str, language: Language, later: int) -> list[Pair]:
        """A mode, a language and how many later turns in, the question and its answer, then the later ones, out."""
        if self._rng.random() < 0.05:
            return [self._cross(mode, language)]
        scene = self._pick([scene for scene in language.scenes if scene.mode == mode and (scene.follow or not later)])
        draw = Draw(language, self._rng)
        follow = self._rng.sample(scene.follow, min(later, len(scene.follow)))
        return [self._pair(draw, language, part.ask, part.answer) for part in [scene, *follow]]

    def _cross(self, mode: str, language: Language) -> Pair:
        """A mode and a language in, a question that belongs to another mode with this mode's own answer out."""
        foreign = [scene for scene in language.scenes if scene.mode in ELSEWHERE[mode] and scene.kind == "plain"]
        own = next(scene for scene in language.scenes if scene.mode == mode and scene.kind == "fallback")
        ask, _ = self._pair(Draw(language, self._rng), language, self._pick(foreign).ask, [""])
        return ask, Draw(language, self._rng).say(own.answer)

    def _pick(self, scenes: list[Scene]) -> Scene:
        """Scenes in, one of them out, by weight."""
        return self._rng.choices(scenes, [self._weight(scene) for scene in scenes])[0]

    def _weight(self, scene: Scene) -> int:
        """A scene in, its weight out: `copying` times as much where the answer repeats what no one can guess."""
        return scene.weight * (self._copying if COPIED.search(" ".join(scene.answer)) else 1)

    def _pair(self, draw: Draw, language: Language, ask: list[str], answer: list[str]) -> Pair:
        """What may be asked and answered in, one question as typed and its answer out."""
        return as_typed(draw.say(ask), language.code, self._rng), draw.say(answer)


def write_corpus(path: Path, count: int, talks: Talks) -> None:
    """A path, a count and the source of talks in; the file of talks is written there, one JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as lines:
        for talk in talks.stream(count):
            lines.write(json.dumps(talk, ensure_ascii=False) + "\n")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "work" / "corpus.jsonl")
    parser.add_argument("--count", type=int, default=90_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--copying", type=int, default=1, help="how much more of the scenes that copy from the prompt")
    args = parser.parse_args()
    write_corpus(args.out, args.count, Talks(args.seed, args.copying))


if __name__ == "__main__":
    main()
