"""Stop strings over a stream of text: nothing that may be the start of one leaves before it is decided."""

from __future__ import annotations


class StopStrings:
    """Watches one completion's text.

    The match that ends first wins, and of those the longest, so the answer does not depend on how the text was cut
    into tokens.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""
        self.matched = False

    def feed(self, text: str, *, early: bool = False) -> str:
        """The text that may be shown now. Once ``matched`` is True nothing more ever comes out. ``early``: a stop string that ends
        in this text does not count."""
        if self.matched:
            return ""
        if not self._stops or not text:
            return text
        buffer = self._held + text
        cut = None if early else self._first_match(buffer)
        if cut is not None:
            self.matched, self._held = True, ""
            return buffer[:cut]
        keep = len(buffer) - self._undecided(buffer)
        self._held = buffer[keep:]
        return buffer[:keep]

    def flush(self) -> str:
        """What was held back, at the end of the output."""
        held, self._held = self._held, ""
        return held

    def _first_match(self, buffer: str) -> int | None:
        """Of those that end in the new text: what was held back may end with one that came too early."""
        known = len(self._held)
        starts = ((stop, buffer.find(stop, max(0, known - len(stop) + 1))) for stop in self._stops)
        matches = [(at + len(stop), at) for stop, at in starts if at >= 0]
        return min(matches)[1] if matches else None

    def _undecided(self, buffer: str) -> int:
        """Length of the longest suffix that begins a stop string."""
        longest = min(len(buffer), max(map(len, self._stops)) - 1)
        for length in range(longest, 0, -1):
            if any(stop.startswith(buffer[-length:]) for stop in self._stops):
                return length
        return 0
