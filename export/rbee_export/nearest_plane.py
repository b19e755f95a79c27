"""Groups of columns rounded in order, each column making up for those before it in its group."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rbee_export.blocks import BLOCK, BlockMatrix, row_ranges, shortened

Floats = NDArray[np.float32]

_SEARCHED = 1 << 11
"""Blocks whose scales are searched together: 256 KB an array, a few of which the cache holds."""

_STRIP = 8
"""Columns that make up for each other one by one; for those before them they do so together."""

_PIECE = 64
"""Columns of a product worked out at once."""

_PADDING = 16
"""Numbers by which rows are kept apart: powers of two would share few lines of the cache."""

_LEAST, _MOST = np.float32(-8), np.float32(7)
_STEPS = tuple(np.float32(-steps) for steps in (7, 8, 9, 11))
"""Scales to try, as the integers that a block's largest weight would become. Those beyond 8 cut it
off, for the good of the others. The other sign has a step less, and brought nothing.
"""


class NearestPlane:
    """Rounds groups of a matrix's columns to 4 bits, in arrays that it keeps.

    In here, the matrix is turned: ``float32[G, columns, N]`` for N of its rows and G groups, so
    that what is done to a column of each group is done to many numbers at once.
    """

    def __init__(self, groups: int, columns: int, rows: int) -> None:
        """Take room for as much as is rounded together at most: G, columns of a group, and N."""
        room = np.empty((4, groups * columns, rows + _PADDING), np.float32)
        self._wanted, self._integers, self._difference, self._plain = room
        self._product = np.empty((groups * columns, rows + _PADDING), np.float32)
        self._targets = np.empty((groups * BLOCK, rows + _PADDING), np.float32)
        self._candidates = np.empty((2, BLOCK * _SEARCHED), np.float32)
        self._rows = np.empty((_SEARCHED, columns + _PADDING), np.float32)

    def round(self, weights: Floats, factors: Floats, held: BlockMatrix, result: Floats) -> None:
        """Round groups of columns.

        Args:
            weights: They, ``float32[N, G * columns]``.
            factors: Of each group, the ``R`` of :class:`~rbee_export.rounding.InputMoments`:
                ``float32[G, columns, columns]``.
            held: Gets them in blocks.
            result: Gets what they then stand for, ``float32[N, G * columns]``; may be ``weights``.
        """
        shape = (*factors.shape[:2], len(weights))
        wanted, values, plain = (
            _view(room, shape) for room in (self._wanted, self._difference, self._plain)
        )
        self._turn(weights, wanted)
        integers, scales, error = self._in_order(wanted, factors)
        plain_scales = _plainly(wanted, plain)
        _multiply(plain, plain_scales, values)
        np.subtract(wanted, values, out=values)
        # Nothing to be gained is nothing to be changed.
        kept = squares(_product(factors.swapaxes(1, 2), values, self._product)) <= error
        np.copyto(integers, plain, where=kept[:, None])
        np.copyto(scales, plain_scales, where=kept[:, None])
        _multiply(integers, scales, values)
        self._turn_back(values, result)
        integers -= _LEAST
        pairs = integers[:, 1::2]
        pairs *= np.float32(16)
        pairs += integers[:, 0::2]
        packed = pairs.astype(np.uint8).reshape(-1, len(weights)).T
        held.packed[:] = packed.reshape(held.packed.shape)
        held.scales[:] = scales.reshape(-1, len(weights)).T

    def _turn(self, weights: Floats, turned: Floats) -> None:
        columns = turned.shape[1]
        for group, into in enumerate(turned):
            own = slice(group * columns, (group + 1) * columns)
            for rows in row_ranges(len(weights), 1, _SEARCHED):
                near = self._rows[: rows.stop - rows.start, :columns]
                near[:] = weights[rows, own]
                into[:, rows] = near.T

    def _turn_back(self, turned: Floats, weights: Floats) -> None:
        columns = turned.shape[1]
        for group, values in enumerate(turned):
            own = slice(group * columns, (group + 1) * columns)
            for rows in row_ranges(len(weights), 1, _SEARCHED):
                near = self._rows[: rows.stop - rows.start, :columns]
                near[:] = values[:, rows].T
                weights[rows, own] = near

    def _in_order(self, wanted: Floats, factors: Floats) -> tuple[Floats, Floats, Floats]:
        """Round the columns of each group in order.

        Args:
            wanted: The weights, ``float32[G, columns, N]``.
            factors: The groups' ``R``.

        Returns:
            Integers from -8 to 7 as ``float32[G, columns, N]``, scales ``float32[G, columns / 32,
            N]``, and the error they leave, ``float32[G, N]``.
        """
        groups, columns, count = wanted.shape
        integers, difference = (
            _view(room, wanted.shape) for room in (self._integers, self._difference)
        )
        diagonal: Floats = np.einsum("gii->gi", factors)
        weight = squares(factors.swapaxes(1, 2))  # the diagonal of H
        shares = factors / diagonal[:, None]
        scales = np.empty((groups, columns // BLOCK, count), np.float32)
        error = np.zeros((groups, count), np.float32)
        for block, start in enumerate(range(0, columns, BLOCK)):
            own = slice(start, start + BLOCK)
            share = shares[:, :start, own].swapaxes(1, 2)
            targets = _product(share, difference[:, :start], self._targets)
            targets += wanted[:, own]
            scale = scales[:, block]
            self._search(targets, weight[:, own], scale)
            scale[:] = shortened(scale)
            inverse = _quotient(np.float32(1), scale)
            for first in range(start, start + BLOCK, _STRIP):
                if first > start:
                    share = shares[:, start:first, first : first + _STRIP].swapaxes(1, 2)
                    made_up = _product(share, difference[:, start:first], self._product)
                    targets[:, first - start : first - start + _STRIP] += made_up
                for column in range(first, first + _STRIP):
                    target, q, off = (
                        targets[:, column - start],
                        integers[:, column],
                        difference[:, column],
                    )
                    if column > first:
                        share = shares[:, first:column, column]
                        target += np.einsum("gi,gin->gn", share, difference[:, first:column])
                    np.rint(np.multiply(target, inverse, out=q), out=q)
                    np.clip(q, _LEAST, _MOST, out=q)
                    target -= np.multiply(q, scale, out=off)
                    np.subtract(wanted[:, column], off, out=off)
            np.square(targets, out=targets)
            error += np.einsum("gi,gin->gn", np.square(diagonal[:, own]), targets)
        return integers, scales, error

    def _search(self, targets: Floats, weight: Floats, scales: Floats) -> None:
        """Find each block's scale, for the least weighted error of rounding to it.

        Args:
            targets: A block to each column, ``float32[G, 32, N]``.
            weight: What an error counts in each row, ``float32[G, 32]``.
            scales: Gets them, ``float32[G, N]``.
        """
        groups, _, count = targets.shape
        together = min(count, _SEARCHED)
        for g in row_ranges(groups, together, _SEARCHED):
            for n in row_ranges(count, 1, _SEARCHED):
                scales[g, n] = self._searched(targets[g, :, n], weight[g])

    def _searched(self, targets: Floats, weight: Floats) -> Floats:
        """Return scales as :meth:`_search` finds them."""
        weighted, q = (part[: targets.size].reshape(targets.shape) for part in self._candidates)
        np.multiply(targets, weight[..., None], out=weighted)
        widest = _widest(targets)
        best, best_scale = np.zeros_like(widest), np.zeros_like(widest)
        for steps in _STEPS:
            np.multiply(targets, _quotient(steps, widest)[:, None], out=q)
            np.clip(np.rint(q, out=q), _LEAST, _MOST, out=q)
            # The least-squares scale of these integers is fit / norm, and takes fit ** 2 / norm off
            # the error of leaving nothing.
            fit = np.einsum("gin,gin->gn", weighted, q)
            norm = np.einsum("gi,gin->gn", weight, np.square(q, out=q))
            scale = _quotient(fit, norm)
            gain = fit * scale
            found = gain > best
            np.copyto(best, gain, where=found)
            np.copyto(best_scale, scale, where=found)
        return best_scale


def squares(values: Floats) -> Floats:
    """Return the sum of squares of each column: ``float32[G, n, N]`` to ``float32[G, N]``."""
    sums: Floats = np.einsum("gin,gin->gn", values, values)
    return sums


def _view(room: Floats, shape: tuple[int, int, int]) -> Floats:
    """Return a part of ``room`` as an array of ``[G, n, N]``."""
    return room[: shape[0] * shape[1], : shape[2]].reshape(shape)


def _plainly(wanted: Floats, integers: Floats) -> Floats:
    """Round as :func:`~rbee_export.blocks.quantize` does.

    Args:
        wanted: The weights, ``float32[G, columns, N]``.
        integers: Gets integers from -8 to 7, alike.

    Returns:
        Scales, ``float32[G, columns / 32, N]``.
    """
    scales = []
    for start in range(0, wanted.shape[1], BLOCK):
        block, q = wanted[:, start : start + BLOCK], integers[:, start : start + BLOCK]
        scale = _widest(block) / _LEAST
        np.divide(block, np.where(scale == 0, np.float32(1), scale)[:, None], out=q)
        np.clip(np.rint(q, out=q), _LEAST, _MOST, out=q)
        scales.append(shortened(_quotient(np.einsum("gin,gin->gn", block, q), squares(q))))
    return np.stack(scales, axis=1)


def _multiply(integers: Floats, scales: Floats, values: Floats) -> None:
    """Store what integers and scales stand for in ``values``."""
    for block in range(scales.shape[1]):
        own = slice(block * BLOCK, (block + 1) * BLOCK)
        np.multiply(integers[:, own], scales[:, block, None], out=values[:, own])


def _widest(block: Floats) -> Floats:
    """Return the number of largest size in each column, ``float32[G, n, N]`` to ``[G, N]``."""
    most, least = block.max(1), block.min(1)
    widest: Floats = np.where(most > -least, most, least)
    return widest


def _product(a: Floats, b: Floats, room: Floats) -> Floats:
    """Return ``a @ b`` of small matrices and wide ones in ``room``, on this thread alone.

    Thousands of products as small as these would have threads wait for one another far longer than
    they work, on a machine that has other work too. Pieces of this size are not shared out.
    """
    product = _view(room, (*a.shape[:2], b.shape[2]))
    count = b.shape[2] // _PIECE
    whole = count * _PIECE
    pieces, results = (
        matrix[..., :whole].reshape(*matrix.shape[:2], count, _PIECE).swapaxes(1, 2)
        for matrix in (b, product)
    )
    np.matmul(a[:, None], pieces, out=results)
    np.matmul(a, b[..., whole:], out=product[..., whole:])
    return product


def _quotient(a: Floats | np.float32, b: Floats) -> Floats:
    """Return ``a / b``, and 0 where that is no finite number."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        quotient: Floats = a / b
    np.copyto(quotient, 0, where=~np.isfinite(quotient))
    return quotient
