"""One run of the model, as the scheduler orders it and the backend performs it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

PREFILL_CHUNK = 256
"""Prompt tokens of a step while nobody waits for a next token: enough to keep the matrix products
busy, few enough to look at cancellations now and then.
"""

MOST_DRAFTED = 16
"""Guesses in a step at most: beyond that, few ever come true."""


class Row(NamedTuple):
    """Tokens of one sequence to run through the model.

    Attributes:
        past: Positions of its slot already filled; the tokens take those that follow.
        tokens: Token ids, at least one.
        length: Positions the sequence may grow to, which decides between two sets of rotary
            frequencies where a model has them. What this step fills counts at least.
        guesses: How many of the tokens, the last ones, may turn out to be others.
    """

    past: int
    tokens: Sequence[int]
    length: int = 0
    guesses: int = 0

    @property
    def end(self) -> int:
        """Positions of its slot filled after the step."""
        return self.past + len(self.tokens)


class Step(NamedTuple):
    """Rows to run together: any tokens of one sequence, or one token each of several.

    Guesses of what comes next may follow each of those. Then every token's logits are wanted, not
    the last one's alone.

    Attributes:
        slot: The cache slot of the first row; the others are in those that follow.
        rows: At least one; each of one token, guesses apart, if there are several.
        guesses: How many there are in all rows.
    """

    slot: int
    rows: Sequence[Row]
    guesses: int = 0

    @classmethod
    def of(cls, slot: int, past: int, tokens: Sequence[int], length: int = 0) -> Step:
        """Return a step of one row."""
        return cls(slot, (Row(past, tokens, length),))

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return sum(len(row.tokens) for row in self.rows)

    def apart(self) -> Iterator[tuple[int, Row]]:
        """Yield rows of one token each and their slots: first those of no guess, then the guesses.

        A row's guesses stay together, in their order.
        """
        for slot, row in enumerate(self.rows, self.slot):
            yield slot, Row(row.past, row.tokens[:1], row.length)
        for slot, row in enumerate(self.rows, self.slot):
            for number in range(1, len(row.tokens)):
                yield slot, Row(row.past + number, row.tokens[number : number + 1], row.length)
