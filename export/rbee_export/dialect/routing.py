"""Which experts the tokens of a text are given, in NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rbee_export.checkpoint.config import Experts
from rbee_export.dialect.activations import sigmoid
from rbee_export.weights import Weights

Floats = NDArray[np.float32]

LEAST_SUM = 1e-6
"""Added to the sum of sigmoids that they are divided by."""


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
        chosen = _largest(p, experts.active)
        shares = np.take_along_axis(p, chosen, -1)
        if experts.normalized:
            shares /= shares.sum(-1, keepdims=True)
        return cls(chosen, shares)

    @classmethod
    def by_sigmoid(cls, logits: Floats, bias: Floats, experts: Experts) -> Self:
        """Choose alike by sigmoids, each with its expert's ``bias``, ``float32[count]``."""
        p = sigmoid(logits)
        chosen = _largest(p + bias, experts.active)
        shares = np.take_along_axis(p, chosen, -1)
        if experts.normalized:
            shares /= shares.sum(-1, keepdims=True) + np.float32(LEAST_SUM)
        return cls(chosen, shares)

    def of_expert(self, expert: int) -> tuple[NDArray[np.intp], Floats]:
        """Return the tokens that an expert is given, and its weight for each, ``float32[n, 1]``."""
        tokens, places = np.nonzero(self.chosen == expert)
        return tokens, self.shares[tokens, places][:, None]


def _largest(p: Floats, count: int) -> NDArray[np.intp]:
    """Return where each row has its largest, the lower place of equal ones."""
    return np.argsort(-p, axis=-1, kind="stable")[:, :count]


@dataclass(frozen=True, slots=True)
class ExpertBiases:
    """What is added to the products of each expert: rows of as many numbers, or of one zero.

    Attributes:
        gate: To those with its gate, ``float32[count, intermediate]``.
        up: To those with its other projection, alike.
        down: To its outcome, ``float32[count, columns]``.
    """

    gate: Floats
    up: Floats
    down: Floats

    @classmethod
    def of(cls, weights: Weights, at: str, columns: int, experts: Experts) -> Self:
        """Read those of a layer, whose weights' names begin so; zeros where there are none."""
        if not experts.clamped:
            return cls(*[np.zeros((experts.count, 1), np.float32)] * 3)
        widths = {
            "expert_gate": experts.intermediate,
            "expert_up": experts.intermediate,
            "expert_down": columns,
        }
        return cls(
            *(
                weights.vector(f"{at}{name}_bias", experts.count * width).reshape(-1, width)
                for name, width in widths.items()
            )
        )
