"""Rounding to 4 bits with an eye to what a matrix is multiplied by.

Rounding each weight to the nearest integer makes the error of a weight small; what counts is the
error of the products. With ``H = x.T @ x`` over some text's activations, rounding ``W`` to ``Q``
changes a row's products by ``sum(((W - Q) @ R) ** 2)``, for any ``R`` with ``R @ R.T = H``. Take
the triangular one: then the error of each column depends on the columns before it alone, and
columns can be rounded in order, each making up for those already done. This is GPTQ (Frantar et
al. 2022, https://arxiv.org/abs/2210.17323), in the form of Babai's nearest plane (Chen et al. 2025,
https://arxiv.org/abs/2507.18553), which needs no inverse. What differs from the paper:

- ``H`` is taken in groups of 64 columns, as if groups were independent. A whole one takes the
  square of the columns in memory, and what correlations between far columns a short text shows
  are mostly chance: measured, they make the result worse.
- Each block's scale is searched when its turn comes, for the least error of what its weights have
  become by then, rather than taken from the largest of them.
- A row of a group in which plain rounding does better keeps that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rbee_export.blocks import BLOCK, BlockMatrix, row_ranges
from rbee_export.cores import each
from rbee_export.nearest_plane import NearestPlane, squares

Floats = NDArray[np.float32]

GROUP = 64
"""Columns whose errors make up for one another; a multiple of a block."""

_DAMPING = 0.1
"""Added to the diagonal of ``H``, as a share of its mean: no text shows all that may come."""

_TOGETHER = 1 << 13
"""Rows rounded together, of one group of columns or of several: so many that two threads spend
their time outside the interpreter. They take 13 MB.
"""


@dataclass(frozen=True, slots=True)
class InputMoments:
    """What a matrix is multiplied by, as far as its rounding needs to know.

    Attributes:
        factors: For each group of 64 columns, the last one perhaps of fewer, the upper triangle
            ``R`` with ``R @ R.T = H``, ``float32[columns, columns]``; ``H`` is scaled to a mean
            diagonal of 1, then damped.
    """

    factors: tuple[Floats, ...]

    @classmethod
    def of(cls, inputs: Floats) -> Self | None:
        """Return the moments of ``float32[T, K]``, or ``None`` where those are not finite."""
        factors = []
        for start in range(0, inputs.shape[1], GROUP):
            columns = inputs[:, start : start + GROUP]
            with np.errstate(over="ignore", invalid="ignore"):
                moments = (columns.T @ columns).astype(np.float64)
            if not np.isfinite(moments).all():
                return None
            # Inputs that are all zero leave nothing to choose by: every weight then counts alike.
            moments /= np.trace(moments) / len(moments) or 1.0
            moments[np.diag_indices_from(moments)] += _DAMPING
            # NumPy's triangle is the lower one: both ends are exchanged before and after.
            factor = np.linalg.cholesky(moments[::-1, ::-1])[::-1, ::-1]
            factors.append(np.ascontiguousarray(factor, np.float32))
        return cls(tuple(factors))

    def error(self, difference: Floats) -> Floats:
        """Return how much a change of weights changes the products.

        Args:
            difference: ``float32[N, K]``, of a matrix from another.

        Returns:
            ``float32[N, groups]``: the squared change, by row and group, up to a factor for each
            group.
        """
        return np.stack(
            [
                squares((factor.T @ difference[:, columns].T)[None])[0]
                for columns, factor in self._by_columns()
            ],
            axis=1,
        )

    def round(self, weights: Floats, result: Floats | None = None) -> BlockMatrix:
        """Quantise ``float32[N, K]`` to 4 bits in symmetric blocks of 32, for such inputs.

        No row's :meth:`error` is larger, in any group, than
        :func:`~rbee_export.blocks.quantize` would have it.

        Args:
            weights: The matrix.
            result: Gets what it then stands for, ``float32[N, K]``; may be ``weights``.

        Raises:
            ValueError: K is not a multiple of 32.
        """
        rows, columns = weights.shape
        if columns % BLOCK:
            raise ValueError(f"input dimension {columns} is not a multiple of {BLOCK}")
        packed = np.empty((rows, columns // BLOCK, BLOCK // 2), np.uint8)
        scales = np.empty((rows, columns // BLOCK), np.float32)
        if result is None:
            result = np.empty_like(weights)
        # Of parts that do not depend on each other, the first is as large as any.
        parts = list(self._parts(rows))
        planes: list[NearestPlane] = []

        def work(place: tuple[Floats, slice, slice]) -> None:
            factors, own, part = place
            blocks = slice(own.start // BLOCK, own.stop // BLOCK)
            held = BlockMatrix(4, packed[part, blocks], scales[part, blocks])
            try:
                plane = planes.pop()
            except IndexError:
                largest, _, whole = parts[0]
                groups, width, _ = largest.shape
                plane = NearestPlane(groups, width, whole.stop)
            with np.errstate(over="ignore", invalid="ignore"):
                plane.round(weights[part, own], factors, held, result[part, own])
            planes.append(plane)

        each(work, parts)
        return BlockMatrix(4, packed, scales, how="calibrated")

    def _parts(self, rows: int) -> Iterator[tuple[Floats, slice, slice]]:
        """Cut a matrix into parts: factors of groups, their columns, and rows."""
        groups = list(self._by_columns())
        most = max(1, _TOGETHER // rows) if rows else 1
        while groups:
            columns, factor = groups[0]
            count = next((i for i, g in enumerate(groups) if len(g[1]) < len(factor)), len(groups))
            taken, groups = groups[: min(count, most)], groups[min(count, most) :]
            factors = np.stack([factor for _, factor in taken])
            for part in row_ranges(rows, 1, _TOGETHER):
                yield factors, slice(columns.start, taken[-1][0].stop), part

    def _by_columns(self) -> Iterator[tuple[slice, Floats]]:
        start = 0
        for factor in self.factors:
            yield slice(start, start + len(factor)), factor
            start += len(factor)
