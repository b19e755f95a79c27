"""Which steps a fresh export is tried with."""

from __future__ import annotations

from dataclasses import dataclass

CHUNK = 256
"""Tokens of the longest step."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Steps over a text: the prompt in chunks, another chunk after that past, then single tokens.

    Attributes:
        steps: Tokens of each step.
        compared: Of the steps, how many of the last ones have their logits compared.
    """

    steps: tuple[int, ...]
    compared: int

    @classmethod
    def over(cls, positions: int) -> Schedule:
        """Return the steps for a text of this many tokens."""
        singles = min(8, positions // 4)
        second = min(16, positions // 4)
        first = positions - singles - second
        chunks = [min(CHUNK, first - start) for start in range(0, first, CHUNK)]
        later = [second] * (second > 0) + [1] * singles
        return cls((*chunks, *later), len(later) + 1)

    @property
    def compared_positions(self) -> list[int]:
        """Positions whose logits are compared: the last of each compared step."""
        ends, end = [], 0
        for count in self.steps:
            end += count
            ends.append(end - 1)
        return ends[-self.compared :]
