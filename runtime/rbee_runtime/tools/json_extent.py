"""Where an object of JSON ends."""

from __future__ import annotations


class JsonExtent:
    """Follows an object of JSON that comes in pieces.

    Attributes:
        is_complete: Whether it has come to its end.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self.is_complete = False

    def push(self, text: str) -> tuple[str, int]:
        """Take as much of a text as belongs to the object.

        Returns:
            What belongs to it, white space before it left out, and how much was taken.
        """
        began = 0 if self._depth else len(text) - len(text.lstrip())
        for at in range(began, len(text)):
            self._take(text[at])
            if self._depth == 0:
                self.is_complete = True
                return text[began : at + 1], at + 1
        return text[began:], len(text)

    def _take(self, character: str) -> None:
        if self._escaped:
            self._escaped = False
        elif self._in_string:
            self._escaped = character == "\\"
            self._in_string = character != '"'
        elif character == '"':
            self._in_string = True
        elif character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
