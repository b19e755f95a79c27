"""Finding stop strings in text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Withholds text that may turn out to be the beginning of a stop string.

    Attributes:
        matched: The stop string found, once there is one.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """Add text and return what can no longer be part of a stop string.

        When one matches, the text before it is returned, :attr:`matched` is set, and nothing more
        comes. Of several, the one that begins first wins; of those, the longest.
        """
        if self.matched is not None:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        found = [(text.find(stop), -len(stop), stop) for stop in self._stops if stop in text]
        if found:
            at, _, stop = min(found)
            # An earlier-beginning stop may still be incomplete, but this one is complete: it ends
            # here.
            self.matched, self._held = stop, ""
            return text[:at]
        keep = max(self._overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """Return what was withheld, at the end of a completion."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """Return the length of the longest end of ``text`` that begins ``stop``."""
        for length in range(min(len(stop) - 1, len(text)), 0, -1):
            if stop.startswith(text[-length:]):
                return length
        return 0
