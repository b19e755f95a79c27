"""How many tokens a step may have for whoever comes next not to wait long. Pure: told the times."""

from __future__ import annotations

_STEP_SECONDS = 0.02
"""How long a step is to take: products are as fast as they get, and two of them hardly felt."""

_FIRST = 256
_LEAST = 128
_LEAST_OF_LARGE = 256
_LARGE = 64 << 20
"""Bytes of weights that no cache holds. Each step reads them anew, which for fewer tokens is a good
part of its time.
"""
_GROWTH, _DECLINE = 0.5, 0.1
"""How far the next pack goes to what the last one says. What slows a step passes, mostly."""


class PackPace:
    """Fits packs to the time that a step may take.

    That time is not known beforehand: it depends on the machine and on the model. Each full pack
    sets the size of the next.

    Args:
        most: Tokens of a pack at most.
        weight_bytes: Bytes of the model's weights.
    """

    def __init__(self, most: int, weight_bytes: int = 0) -> None:
        self._most = most
        self._least = min(_LEAST if weight_bytes <= _LARGE else _LEAST_OF_LARGE, most)
        self._tokens = float(min(_FIRST, most))

    @property
    def tokens(self) -> int:
        """Tokens of the next pack at most, unless it is of one text."""
        return int(self._tokens)

    def ran(self, tokens: int, seconds: float) -> None:
        """Take in how long a pack took."""
        if 2 * tokens < self._tokens:
            return  # so few take longer each than many do
        wanted = tokens * _STEP_SECONDS / max(seconds, 1e-9)
        wanted = min(2.0 * self._tokens, max(0.5 * self._tokens, wanted))
        share = _GROWTH if wanted > self._tokens else _DECLINE
        tokens_now = self._tokens + share * (wanted - self._tokens)
        self._tokens = min(float(self._most), max(float(self._least), tokens_now))
