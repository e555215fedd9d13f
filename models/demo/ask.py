"""Asks the demo model by hand: python -m models.demo.ask --mode support "My parcel has not arrived" """

import argparse
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from models.demo.make_corpus import load_systems


class DemoModel:
    """The exported model, loaded from a folder without any network."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
        self._systems = load_systems()

    def answer(self, mode: str, language: str, *talk: str, temperature: float = 0) -> str:
        """A mode, a language and the talk so far (asked, answered, asked, ...) in, the next answer out."""
        return self.answers(mode, language, [talk], temperature)[0]

    def answers(self, mode: str, language: str, talks: list[tuple[str, ...]], temperature: float = 0) -> list[str]:
        """The same for several talks at once."""
        prompts = [{"input_ids": [*self._head(mode, language), *self._turns(talk)]} for talk in talks]
        inputs = self.tokenizer.pad(prompts, return_tensors="pt")
        sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
        with torch.inference_mode():
            output = self.model.generate(**inputs, max_new_tokens=120, **sampling)
        new = output[:, inputs["input_ids"].shape[1] :]
        return [str(self.tokenizer.decode(ids, skip_special_tokens=True)) for ids in new]

    def _head(self, mode: str, language: str) -> list[int]:
        """A mode and a language in, the ids of its system message out."""
        return self._message("system", self._systems[mode][language])

    def _turns(self, talk: tuple[str, ...]) -> list[int]:
        """The talk so far in, its ids out, ending where the answer begins."""
        roles = ["user", "assistant"] * len(talk)
        ids = [token for role, text in zip(roles, talk, strict=False) for token in self._message(role, text)]
        return [*ids, self.tokenizer.convert_tokens_to_ids("<|assistant|>")]

    def _message(self, role: str, text: str) -> list[int]:
        """A role and a text in, the message's ids out; a special token in the text is plain text."""
        plain: list[int] = self.tokenizer(text, split_special_tokens=True).input_ids
        opening, end = self.tokenizer.convert_tokens_to_ids([f"<|{role}|>", "<|end|>"])
        return [opening, *plain, end]


def main() -> None:
    """The command line: one question, or a talk whose turns alternate between asked and answered."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("talk", nargs="+")
    parser.add_argument("--mode", default="general")
    parser.add_argument("--language", default="en", choices=["en", "zh-Hant"])
    parser.add_argument("--temperature", type=float, default=0)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    print(DemoModel(args.folder).answer(args.mode, args.language, *args.talk, temperature=args.temperature))


if __name__ == "__main__":
    main()
