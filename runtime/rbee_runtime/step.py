"""One run of the model, as the scheduler orders it and the backend performs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """Tokens of one slot to run through the model.

    Attributes:
        slot: The cache slot they belong to.
        past: Positions of the slot already filled; the tokens take those that follow.
        tokens: Token ids, at least one.
        length: Positions the sequence may grow to, which decides between two sets of rotary
            frequencies where a model has them. What this step fills counts at least.
    """

    slot: int
    past: int
    tokens: Sequence[int]
    length: int = 0
