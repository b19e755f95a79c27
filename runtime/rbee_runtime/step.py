"""One run of the model, as the scheduler orders it and the backend performs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

PREFILL_CHUNK = 256
"""Prompt tokens of a step while nobody waits for a next token: enough to keep the matrix products
busy, few enough to look at cancellations now and then.
"""


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens of one sequence to run through the model.

    Attributes:
        past: Positions of its slot already filled; the tokens take those that follow.
        tokens: Token ids, at least one.
        length: Positions the sequence may grow to, which decides between two sets of rotary
            frequencies where a model has them. What this step fills counts at least.
    """

    past: int
    tokens: Sequence[int]
    length: int = 0

    @property
    def end(self) -> int:
        """Positions of its slot filled after the step."""
        return self.past + len(self.tokens)


@dataclass(frozen=True, slots=True)
class Step:
    """Rows to run together: any tokens of one sequence, or one token each of several.

    Attributes:
        slot: The cache slot of the first row; the others are in those that follow.
        rows: At least one; each of one token if there are several.
    """

    slot: int
    rows: Sequence[Row]

    @classmethod
    def of(cls, slot: int, past: int, tokens: Sequence[int], length: int = 0) -> Self:
        """Return a step of one row."""
        return cls(slot, (Row(past, tokens, length),))

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return sum(len(row.tokens) for row in self.rows)
