"""How much of a prompt may run while others wait for their next token. Pure: told the times."""

from __future__ import annotations

_PATIENCE = 2.0
"""How long a chunk may take, in steps of those that decode: then the gap between two of their
tokens is three times what it was.
"""

_FIRST = 32
_LEAST = 8
_SMOOTHING = 0.3


class Pace:
    """Fits chunks of prompts to the time that running streams can spare.

    A chunk's time is not known beforehand: it depends on the machine, on the model, and on how far
    the prompt has come. Each one sets the size of the next.

    Attributes:
        most: Tokens of a chunk at most.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._chunk = float(min(_FIRST, most))
        self._step = 0.0

    @property
    def chunk(self) -> int:
        """Tokens of the next chunk that runs between two steps."""
        return int(self._chunk)

    def decoded(self, seconds: float) -> None:
        """Take in how long a step of those that decode took."""
        known = self._step or seconds
        self._step = known + _SMOOTHING * (seconds - known)

    def prefilled(self, tokens: float, seconds: float) -> None:
        """Take in how long a chunk took. Half the size or twice it is as far as one step goes."""
        if self._step == 0.0:
            return
        change = _PATIENCE * self._step / max(seconds, 1e-9)
        wanted = tokens * min(2.0, max(0.5, change))
        self._chunk = min(float(self.most), max(float(_LEAST), wanted))
