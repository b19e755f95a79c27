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

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rbee_export.blocks import BLOCK, BlockMatrix, pack, quantize, row_ranges, shortened

Floats = NDArray[np.float32]

GROUP = 64
"""Columns whose errors make up for one another; a multiple of a block."""

_DAMPING = 0.1
"""Added to the diagonal of ``H``, as a share of its mean: no text shows all that may come."""

_ROWS = 1 << 13
"""Rows rounded together: so many that two threads spend their time outside the interpreter."""

_THREADS = 4
"""More would wait for the interpreter, and each takes 10 MB."""

_PIECE = 32
"""Columns of a product worked out at once."""

_LOW, _HIGH = -8, 7
_STEPS = tuple(np.float32(sign * steps) for steps in (6, 8, 10, 12, 14) for sign in (-1, 1))
"""Scales to try, as the integers that a block's largest weight would become. Those beyond 8 cut it
off, for the good of the others.
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
                _squares(factor.T @ difference[:, columns].T)
                for columns, factor in self._by_columns()
            ],
            axis=1,
        )

    def round(self, weights: Floats) -> BlockMatrix:
        """Quantise ``float32[N, K]`` to 4 bits in symmetric blocks of 32, for such inputs.

        No row's :meth:`error` is larger, in any group, than
        :func:`~rbee_export.blocks.quantize` would have it.

        Raises:
            ValueError: K is not a multiple of 32.
        """
        matrix = quantize(weights, 4)

        def improve(columns: slice, factor: Floats, rows: slice) -> None:
            blocks = slice(columns.start // BLOCK, columns.stop // BLOCK)
            wanted = np.ascontiguousarray(weights[rows, columns].T, np.float32)
            held = BlockMatrix(4, matrix.packed[rows, blocks], matrix.scales[rows, blocks])
            with np.errstate(over="ignore", invalid="ignore"):
                _improve(held, wanted, factor)

        groups = [
            (columns, factor, rows)
            for columns, factor in self._by_columns()
            for rows in row_ranges(len(weights), 1, _ROWS)
        ]
        # Parts of the matrix that no other part depends on; NumPy lets go of the interpreter.
        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
            for _ in pool.map(improve, *zip(*groups, strict=True)):
                pass
        return BlockMatrix(4, matrix.packed, matrix.scales, how="calibrated")

    def _by_columns(self) -> Iterator[tuple[slice, Floats]]:
        start = 0
        for factor in self.factors:
            yield slice(start, start + len(factor)), factor
            start += len(factor)


def _improve(held: BlockMatrix, wanted: Floats, factor: Floats) -> None:
    """Replace the rows of a group that rounding in order makes better.

    Args:
        held: The group as rounded so far, ``[N, columns]``; changed in place.
        wanted: Its weights, ``float32[columns, N]``.
        factor: Its ``R``.
    """
    integers, scales, error = _round_group(wanted, factor)
    better = error < _squares(_product(factor.T, wanted - held.dequantize().T))
    q = (integers - _LOW).astype(np.uint8).T.reshape(*held.scales.shape, BLOCK)
    held.packed[better] = pack(q, 4)[better]
    held.scales[better] = scales.T[better]


def _round_group(wanted: Floats, factor: Floats) -> tuple[Floats, Floats, Floats]:
    """Round the columns of a group in order.

    Args:
        wanted: The weights, ``float32[columns, N]``.
        factor: The group's ``R``.

    Returns:
        Integers from -8 to 7 as ``float32[columns, N]``, scales ``float32[columns / 32, N]``, and
        the error they leave, ``float32[N]``.
    """
    diagonal: Floats = np.diag(factor)
    weight = _squares(factor.T)  # the diagonal of H
    shares = factor / diagonal
    integers, difference = np.empty_like(wanted), np.empty_like(wanted)
    scales = np.empty((len(wanted) // BLOCK, wanted.shape[1]), np.float32)
    error = np.zeros(wanted.shape[1], np.float32)
    for block, start in enumerate(range(0, len(wanted), BLOCK)):
        own = slice(start, start + BLOCK)
        targets = wanted[own] + _product(shares[:start, own].T, difference[:start])
        scales[block] = scale = shortened(_search(targets, weight[own]))
        inverse = _quotient(np.float32(1), scale)
        for i in range(BLOCK):
            column, target = start + i, targets[i]
            target += np.einsum("i,in->n", shares[own, column][:i], difference[own][:i])
            q = integers[column]
            np.clip(np.rint(np.multiply(target, inverse, out=q), out=q), _LOW, _HIGH, out=q)
            rounded = q * scale
            np.subtract(wanted[column], rounded, out=difference[column])
            target -= rounded
            target *= diagonal[column]
            error += target * target
    return integers, scales, error


def _search(targets: Floats, weight: Floats) -> Floats:
    """Return each block's scale, ``float32[N]``, for the least weighted error of rounding to it.

    Args:
        targets: A block to each column, ``float32[32, N]``.
        weight: What an error counts in each row, ``float32[32]``.
    """
    widest: Floats = np.take_along_axis(targets, np.abs(targets).argmax(0)[None], 0)[0]
    weighted = targets * weight[:, None]
    best, best_scale = np.zeros_like(widest), np.zeros_like(widest)
    q = np.empty_like(targets)
    for steps in _STEPS:
        np.multiply(targets, _quotient(steps, widest), out=q)
        np.clip(np.rint(q, out=q), _LOW, _HIGH, out=q)
        # The least-squares scale of these integers is fit / norm, and takes fit ** 2 / norm off the
        # error of leaving nothing.
        fit = np.einsum("in,in->n", weighted, q)
        norm = np.einsum("i,in->n", weight, np.square(q, out=q))
        scale = _quotient(fit, norm)
        gain = fit * scale
        found = gain > best
        np.copyto(best, gain, where=found)
        np.copyto(best_scale, scale, where=found)
    return best_scale


def _product(a: Floats, b: Floats) -> Floats:
    """Return ``a @ b`` of a small matrix and a wide one, on this thread alone.

    Thousands of products as small as these would have threads wait for one another far longer than
    they work, on a machine that has other work too. Pieces of this size are not shared out.
    """
    product = np.empty((len(a), b.shape[1]), np.float32)
    count = b.shape[1] // _PIECE
    whole = count * _PIECE
    pieces, results = (
        matrix[:, :whole].reshape(len(matrix), count, _PIECE).swapaxes(0, 1)
        for matrix in (b, product)
    )
    np.matmul(a, pieces, out=results)
    np.matmul(a, b[:, whole:], out=product[:, whole:])
    return product


def _quotient(a: Floats | np.float32, b: Floats) -> Floats:
    """Return ``a / b``, and 0 where that is no finite number."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        quotient: Floats = a / b
    np.copyto(quotient, 0, where=~np.isfinite(quotient))
    return quotient


def _squares(values: Floats) -> Floats:
    """Return the sum of squares of each column: ``float32[n, N]`` to ``float32[N]``."""
    squares: Floats = np.einsum("in,in->n", values, values)
    return squares
