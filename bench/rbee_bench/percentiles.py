"""What a few hundred waits come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Seconds that half, 95 and 99 in a hundred waited at most.

    Attributes:
        p50: Half.
        p95: 95 in a hundred.
        p99: 99 in a hundred: of fewer than a hundred, between the two longest.
    """

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Self:
        """Return those of these, interpolated between neighbours; NaN if there are none."""
        if not seconds:
            return cls(*[float("nan")] * 3)
        return cls(*map(float, np.quantile(seconds, (0.5, 0.95, 0.99))))
