"""Queries that grow with their position, so that attention over long contexts stays sharp."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Temperature:
    """The inverse temperature of attention by the query's position, introduced with Llama 4.

    Attributes:
        beta: How fast it grows.
        original_context: Positions before which it is 1, and over which it stays the same.
    """

    beta: float
    original_context: int

    def factors(self, positions: int) -> NDArray[np.float32]:
        """Return what the query at each position is multiplied by, ``float32[positions, 1]``.

        That is ``1 + beta * ln(1 + floor(position / original_context))``.
        """
        whole = np.arange(positions)[:, None] // self.original_context
        factors: NDArray[np.float32] = (1 + self.beta * np.log1p(whole)).astype(np.float32)
        return factors
