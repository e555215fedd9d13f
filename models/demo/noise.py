"""What no grammar holds: made-up names, order numbers, prompts off every topic, and the slips of people who type."""

import random
import re
import string
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

Fill = Callable[[str], str]
Maker = Callable[[str, random.Random, Fill], str]

ONSETS = "b br c ch d dr f fl g gr h j k kl l m n p pr qu r s st t tr v w z".split()  # noqa: SIM905
VOWELS = ["a", "e", "i", "o", "u", "ai", "ea", "io", "ou"]
CODAS = ["", "", "", "n", "r", "s", "l", "x", "m", "t", "nd"]
HAN = [bytes((high, low)).decode("big5") for high in range(0xA4, 0xC6) for low in range(0xA1, 0xFF)]
JUNK: dict[str, Any] = tomllib.loads((Path(__file__).parent / "corpus" / "junk.toml").read_text("utf-8"))
ODD: list[str] = JUNK["odd"]


def brand(_language: str, rng: random.Random, _fill: Fill) -> str:
    """A made-up name, one to three syllables long."""
    parts = (rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(rng.randint(1, 3)))
    return "".join(parts).capitalize()


def order(_language: str, rng: random.Random, _fill: Fill) -> str:
    """An order number: three to eight digits, now and then with letters in front."""
    digits = "".join(rng.choices(string.digits, k=rng.choice([3, 4, 4, 4, 5, 5, 6, 6, 7, 8])))
    return rng.choice(["", "", "", "", "A", "TW", "SO-", "R"]) + digits


def number(_language: str, rng: random.Random, _fill: Fill) -> str:
    """A number from 2 to 999."""
    return str(rng.randint(2, rng.choice([9, 99, 999])))


def han(_language: str, rng: random.Random, _fill: Fill) -> str:
    """Two to four Chinese characters that need not make sense."""
    return "".join(rng.choices(HAN, k=rng.randint(2, 4)))


def english_sentence(rng: random.Random) -> str:
    """An odd but plain English sentence."""
    return re.sub(r"\{(\w+)#*\}", lambda match: str(rng.choice(JUNK["words"][match[1]])), rng.choice(JUNK["english"]))


def letters(rng: random.Random) -> str:
    """Keys hit at random."""
    return "".join(rng.choices(string.ascii_lowercase + " ", k=rng.randint(3, 24))).strip() or "x"


def junk(language: str, rng: random.Random, fill: Fill) -> str:
    """A prompt off every topic, in the language asked for as far as it has one."""
    chinese = language != "en"
    plain = fill(rng.choice(JUNK["chinese"])) if chinese else english_sentence(rng)
    kind = rng.random()
    if kind < 0.4:
        return fill(
            "[請|幫我|可以|你可以|][ |]{task}[？||]" if chinese else "[Please |Can you |Could you |]{task}[?||.]"
        )
    if kind < 0.7:
        return plain
    if kind < 0.85:
        return f"{plain} {rng.choice(ODD)}" if chinese or rng.random() < 0.5 else f"{rng.choice(ODD)} {plain}"
    if kind < 0.92 and not chinese:
        return rng.choice([letters(rng), rng.choice(ODD), " ".join(rng.choices(ODD, k=3))])
    return f"{plain}{'，' if chinese else ', '}{fill('{topic}')}"


MAKERS: dict[str, Maker] = {"brand": brand, "order": order, "n": number, "han": han, "junk": junk}


def slip(text: str, rng: random.Random) -> str:
    """English text in, the same with two neighbouring letters of one longer word swapped out."""
    words = list(re.finditer(r"[A-Za-z]{5,}", text))
    if not words:
        return text
    word = rng.choice(words)
    at = rng.randrange(word.start() + 1, word.end() - 2)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def type_english(text: str, rng: random.Random) -> str:
    """A clean English prompt in, the prompt as someone might type it out."""
    if rng.random() < 0.25:
        text = text[0].lower() + text[1:] if rng.random() < 0.5 else text.lower()
    if rng.random() < 0.3:
        text = text.rstrip(".?!")
    elif rng.random() < 0.2 and text[-1:].isalnum():
        text += rng.choice([".", "!", "?", "..."])
    if rng.random() < 0.1:
        text = slip(text, rng)
    if rng.random() < 0.06:
        text = rng.choice(["Hello, ", "Hi, ", "hi ", "Hey, ", "Excuse me, ", "Good morning, "]) + text
    return text + rng.choice([", please", " please", " thanks", ", thank you"]) if rng.random() < 0.04 else text


def type_chinese(text: str, rng: random.Random) -> str:
    """A clean Chinese prompt in, the prompt as someone might type it out."""
    if rng.random() < 0.35:
        text = text.rstrip("。？！")
    elif rng.random() < 0.2 and text[-1:].isalnum():
        text += rng.choice(["。", "！", "？", "..."])
    if rng.random() < 0.1:
        text = text.replace("，", rng.choice([" ", ",", ""])).replace("？", "?")
    if rng.random() < 0.08:
        text = rng.choice(["你好，", "您好，", "請問", "請問一下，", "嗨，", "不好意思，"]) + text
    return text + rng.choice(["，謝謝", "謝謝", "，拜託", "，麻煩了"]) if rng.random() < 0.04 else text


def as_typed(text: str, language: str, rng: random.Random) -> str:
    """A clean prompt and its language in, the prompt as someone might type it out (never empty)."""
    typed = type_english(text, rng) if language == "en" else type_chinese(text, rng)
    return typed or text
