"""How a model writes calls of functions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CallForm:
    """What stands around the names and the arguments of calls.

    An answer that calls is ``opening name middle arguments``, then ``between name middle
    arguments`` for every other call, then ``closing``. Special tokens in it are written by name.

    Attributes:
        opening: What begins the first call.
        middle: What stands between a name and its arguments, which are JSON. It begins with a
            character that no name has.
        between: What stands between two calls; ``None`` if an answer has only one.
        closing: What follows the last call.
        marker: The beginning of ``opening`` that tells a call from text.
        marks_anywhere: Whether text may come before the marker. Where calls have no marker of
            their own, an answer that begins as they do is one.
    """

    opening: str
    middle: str
    between: str | None
    closing: str
    marker: str
    marks_anywhere: bool = True

    def write(self, calls: list[tuple[str, str]]) -> str:
        """Return calls as an answer has them, at least one.

        Args:
            calls: Name and arguments of each.
        """
        between = f"{self.closing}\n{self.opening}" if self.between is None else self.between
        written = between.join(name + self.middle + arguments for name, arguments in calls)
        return self.opening + written + self.closing
