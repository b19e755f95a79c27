"""What stands before the arguments of a call, read as it comes."""

from __future__ import annotations

import string
from typing import Final

_IN_NAMES: Final = frozenset(string.ascii_letters + string.digits + "_-")


def may_be_in_name(character: str) -> bool:
    """Return whether a function's name may have a character."""
    return character in _IN_NAMES


class Head:
    """Follows ``before name after``, whatever white space is in it.

    Args:
        before: What stands before the name.
        after: What stands after it.

    Attributes:
        name: The name, as far as it has come.
        seen: All that was taken.
        is_complete: Whether all of it has come.
        has_failed: Whether what came is something else.
    """

    def __init__(self, before: str, after: str) -> None:
        self._before = "".join(before.split())
        self._after = "".join(after.split())
        self._at = 0
        self.name = ""
        self.seen = ""
        self.is_complete = False
        self.has_failed = False

    def push(self, text: str) -> int:
        """Take as much of a text as belongs to it and return how much that is."""
        for number, character in enumerate(text):
            if self.is_complete or self.has_failed:
                return number
            self._take(character)
            if self.has_failed:
                return number
            self.seen += character
        return len(text)

    def _take(self, character: str) -> None:
        if self._at < len(self._before):
            self._expect(character, self._before[self._at])
        elif not self._ended(character):
            self.name += character
        elif self.name:
            self._expect(character, self._after[self._at - len(self._before)])
            self.is_complete = self._at == len(self._before) + len(self._after)
        else:
            self.has_failed = not character.isspace()

    def _ended(self, character: str) -> bool:
        """Return whether a name is over, or has not begun, where this character comes."""
        return not may_be_in_name(character) or self._at > len(self._before)

    def _expect(self, character: str, expected: str) -> None:
        if character == expected:
            self._at += 1
        elif not character.isspace():
            self.has_failed = True
