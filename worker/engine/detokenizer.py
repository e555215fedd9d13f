"""Token ids to text, one at a time, in whole characters.

A token of a byte-level vocabulary may be a part of a character, and a tokenizer may decode a token differently at the
start of a text. So a window of recent tokens is decoded again with each new one, and only what follows the text already
shown comes out (the method of Hugging Face's text-generation-inference and of vLLM).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]

_INCOMPLETE = "\ufffd"
_LONGEST_CHARACTER = 4  # bytes, and so at most as many tokens
_WINDOW = 16
_OVERLAPS = (6, 5, 4, 3)


class Detokenizer:
    """One completion's text. ``decode`` must leave special tokens out and clean nothing up.

    What is still half a character when the output ends is never shown.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._shown = ""  # of the window's text
        self._settled = 0  # tokens of the window whose text is all shown

    def push(self, token: int) -> str:
        """The new text, possibly empty, that ``token`` completes."""
        self._window.append(token)
        text = self._decode(self._window)
        if not text.startswith(self._shown):
            # Byte-fallback decoders turn a whole run of bytes into marks while its last character is not complete.
            if len(self._window) - self._settled <= _LONGEST_CHARACTER:
                return ""
            text = self._begin_again()
        stable = text[: _stable_length(text)]
        new = stable[len(self._shown) :]
        self._shown = stable
        if stable == text:
            self._settled = len(self._window)
            self._roll()
        return new

    def _begin_again(self) -> str:
        """Bytes that became no character after all: they are shown as the marks they are, without what came before."""
        self._window = self._window[self._settled :]
        self._shown, self._settled = "", 0
        return self._decode(self._window)

    def _roll(self) -> None:
        """Forget old tokens, keeping some for context; only where the cut falls between characters."""
        if len(self._window) < _WINDOW:
            return
        for overlap in _OVERLAPS:
            kept = self._window[-overlap:]
            text = self._decode(kept)
            if _INCOMPLETE not in text:
                self._window, self._shown, self._settled = kept, text, overlap
                return


def _stable_length(text: str) -> int:
    """Length of the text that no further token can change: all but the marks of a character not yet complete."""
    end = len(text)
    while end > 0 and len(text) - end < _LONGEST_CHARACTER - 1 and text[end - 1] == _INCOMPLETE:
        end -= 1
    return end
