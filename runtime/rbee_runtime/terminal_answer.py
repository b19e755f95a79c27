"""An answer on the terminal, and what the model thinks before it."""

from __future__ import annotations

import sys
from typing import IO, Final

from rbee_runtime.reasoning import Reasoning, ReasoningReader
from rbee_runtime.terminal import has_styles

_DIM, _PLAIN = "\x1b[2m", "\x1b[22m"
_APART: Final = "\n\n"


class TerminalAnswer:
    """Writes a completion as it comes: the answer to standard output, reasoning to standard error.

    So a file or a pipe gets the answer alone. A terminal shows the reasoning dimmed, unless the
    environment says ``NO_COLOR`` or ``TERM=dumb``.

    Args:
        reasoning: How reasoning is told from the answer; ``None`` if there is none.
    """

    def __init__(self, reasoning: Reasoning | None) -> None:
        self._reader = None if reasoning is None else ReasoningReader(reasoning)
        self._dims = has_styles(sys.stderr)
        self._thoughts: list[str] = []
        self._said: list[str] = []

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self._said)

    @property
    def reasoning(self) -> str:
        """The reasoning so far."""
        return "".join(self._thoughts)

    def write(self, piece: str) -> None:
        """Write a piece of the completion."""
        self._write(*(("", piece) if self._reader is None else self._reader.push(piece)))

    def end(self) -> None:
        """Write what was held back, and end the line."""
        if self._reader is not None:
            self._write(*self._reader.flush())
        if self._thoughts and not self._said:
            print(file=sys.stderr, flush=True)
        else:
            print(flush=True)

    def _write(self, thought: str, answer: str) -> None:
        if thought:
            self._thoughts.append(thought)
            shown = f"{_DIM}{thought}{_PLAIN}" if self._dims else thought
            _write_to(sys.stderr, shown)
        if answer:
            if self._thoughts and not self._said:
                _write_to(sys.stderr, _APART)
            self._said.append(answer)
            _write_to(sys.stdout, answer)


def _write_to(stream: IO[str], text: str) -> None:
    print(text, end="", file=stream, flush=True)
