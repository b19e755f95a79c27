"""Which experts the tokens of a text are given, in NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rbee_export.checkpoint.config import Experts

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Routing:
    """The experts of T tokens.

    Attributes:
        chosen: Their numbers, ``int64[T, active]``, the one with most weight first.
        shares: Their weights, ``float32[T, active]``.
    """

    chosen: NDArray[np.intp]
    shares: Floats

    @classmethod
    def of(cls, logits: Floats, experts: Experts) -> Self:
        """Choose by a router's ``float32[T, count]``; see ``experts`` of a decoder's dialect."""
        p = np.exp(logits - logits.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        chosen = np.argsort(-p, axis=-1, kind="stable")[:, : experts.active]
        shares = np.take_along_axis(p, chosen, -1)
        if experts.normalized:
            shares /= shares.sum(-1, keepdims=True)
        return cls(chosen, shares)

    def of_expert(self, expert: int) -> tuple[NDArray[np.intp], Floats]:
        """Return the tokens that an expert is given, and its weight for each, ``float32[n, 1]``."""
        tokens, places = np.nonzero(self.chosen == expert)
        return tokens, self.shares[tokens, places][:, None]
