"""Whether weights are numbers that something can be computed with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbee_export.blocks import BlockMatrix, row_ranges
from rbee_export.errors import CheckpointError, UnsupportedModel

_LARGEST, _LARGEST_HALF = (np.float32(np.finfo(kind).max) for kind in (np.float32, np.float16))
_HALF_BYTES = 2


def require_finite(
    source: str, name: str, weight: BlockMatrix | NDArray[Any], *, halves: bool = False
) -> None:
    """Refuse a weight that holds infinity or what is no number; of blocks, the scale shows it.

    Args:
        source: The checkpoint's name.
        name: The weight's.
        weight: As it is to be written.
        halves: Whether it is then rounded to ``float16``, if it is not yet.

    Raises:
        CheckpointError: It does.
        UnsupportedModel: It would, in ``float16``.
    """
    found = (weight.scales, weight.offsets) if isinstance(weight, BlockMatrix) else (weight,)
    largest = _LARGEST_HALF if halves else _LARGEST
    if not all(part is None or _within(part, largest) for part in found):
        if halves:
            raise UnsupportedModel(
                f"{source}: {name} holds a number too large for fp16, infinity or NaN; "
                "use --precision bf16, and if that is refused, download the checkpoint again"
            )
        raise CheckpointError(
            f"{source}: {name} holds NaN or infinity; download or convert the checkpoint again"
        )


def _within(values: NDArray[Any], largest: np.float32) -> bool:
    flat = values.reshape(-1)
    parts = [flat[part] for part in row_ranges(flat.size, 1)]
    if values.dtype.itemsize == _HALF_BYTES:
        # NumPy compares such numbers a hundred times as slowly: all bits of the exponent tell.
        ones = np.asarray(np.inf, values.dtype).view(np.uint16)
        return all((part.view(np.uint16) & ones).max() != ones for part in parts)
    # Of what is no number both ends are none, which is within nothing.
    return all(-largest <= part.min() and part.max() <= largest for part in parts)
