"""A checkpoint's weights at the precision that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rbee_export.blocks import BLOCK, BlockMatrix, concatenate, quantize
from rbee_export.checkpoint import Checkpoint, Tensor
from rbee_export.errors import CheckpointError, UnsupportedModel

Precision = Literal["fp32", "int8", "int4", "gguf"]
Matrix = BlockMatrix | NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Weights:
    """Reads weights one at a time, checks their shapes, and brings matrices to a precision.

    Attributes:
        checkpoint: Where they come from.
        precision: ``fp32`` dequantises everything; ``int8`` and ``int4`` quantise in blocks of 32,
            the embedding and output projection always to 8 bits; ``gguf`` keeps the file's own
            blocks.
    """

    checkpoint: Checkpoint
    precision: Precision

    def vector(self, name: str, size: int) -> NDArray[np.float32]:
        """Return a weight of ``float32[size]``.

        Raises:
            CheckpointError: It is missing or of another shape.
        """
        tensor = self.checkpoint.tensor(name)
        self._check(name, tensor, (size,))
        return tensor.dense()

    def matrix(self, name: str, rows: int, columns: int) -> Matrix:
        """Return a weight of ``[rows, columns]`` at this precision.

        Raises:
            CheckpointError: It is missing or of another shape.
            UnsupportedModel: Its columns cannot be cut into blocks.
        """
        tensor = self.checkpoint.tensor(name)
        self._check(name, tensor, (rows, columns))
        if self.precision == "gguf":
            return tensor.blocks() or tensor.dense()
        if self.precision == "fp32":
            return tensor.dense()
        if columns % BLOCK:
            raise UnsupportedModel(
                f"{self.checkpoint.name}: {name} has {columns} columns, not a multiple of {BLOCK}; "
                "use --precision fp32"
            )
        outer = name in ("embedding", "lm_head")
        return quantize(tensor.dense(), 8 if self.precision == "int8" or outer else 4)

    def _check(self, name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
        if tensor.shape != shape:
            raise CheckpointError(
                f"{self.checkpoint.name}: {name} has shape {list(tensor.shape)}, "
                f"its configuration says {list(shape)}"
            )


def pack_rows(matrices: Sequence[Matrix]) -> Matrix | None:
    """Stack matrices along their outputs if they are of one kind, else return ``None``."""
    blocks = [m for m in matrices if isinstance(m, BlockMatrix)]
    if not blocks:
        return np.concatenate([m for m in matrices if not isinstance(m, BlockMatrix)])
    return concatenate(blocks) if len(blocks) == len(matrices) else None
