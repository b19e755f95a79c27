"""A checkpoint's weights at the precision that was asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from rbee_export.blocks import BLOCK, Bits, BlockMatrix, concatenate, quantize_pieces
from rbee_export.checkpoint import Tensor, WeightSource
from rbee_export.errors import CheckpointError, UnsupportedModel
from rbee_export.finiteness import require_finite
from rbee_export.rounding import InputMoments
from rbee_runtime.artifact import Precision, WeightGroup

Matrix = BlockMatrix | NDArray[Any]
"""Blocks, or floating-point numbers: 16 bits wide at ``fp16`` and ``bf16``, else ``float32``."""

_HALVES: Mapping[str, Any] = MappingProxyType({"fp16": np.float16, "bf16": ml_dtypes.bfloat16})

_KEPT = "MXFP4"
"""A type whose blocks 8 bits hold exactly, in no more room than what they would be rounded to."""

PIECE = 1 << 22
"""Values to multiply by together: enough to occupy every core, and not so much that the allocator
asks the system for the room each time, which costs more than the product.
"""


@dataclass(frozen=True, slots=True)
class Held:
    """What became of one weight.

    Attributes:
        name: Its canonical name.
        source: How the checkpoint stores it, e.g. ``Q4_K``.
        held: How the artifact does, e.g. ``4-bit, blocks of 32, offsets, exact``.
        nbytes: Bytes it takes there.
    """

    name: str
    source: str
    held: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class Weights:
    """Reads weights one at a time, checks their shapes, and brings matrices to a precision.

    Attributes:
        checkpoint: Where they come from.
        precision: ``fp32``, ``fp16`` and ``bf16`` hold everything so; ``int8`` and ``int4``
            quantise in blocks of 32, the embedding, the output projection and layers after a
            pooling always to 8 bits, in which blocks of 4-bit floats stay what they are;
            ``gguf`` keeps the file's own blocks.
        beside: How whatever is not in blocks is held, where the precision is one of blocks.
        report: What became of each weight that was asked for.
    """

    checkpoint: WeightSource
    precision: Precision
    beside: Literal["fp32", "fp16", "bf16"] = "fp32"
    report: list[Held] = field(default_factory=list)
    _ready: dict[str, BlockMatrix] = field(default_factory=dict)

    def vector(self, name: str, size: int) -> NDArray[np.float32]:
        """Return a weight of ``float32[size]``.

        Raises:
            CheckpointError: It is missing or of another shape.
        """
        tensor = self._tensor(name, (size,))
        values = tensor.dense()
        self._note(name, tensor, values)
        return values

    def filters(self, name: str, channels: int, taps: int) -> NDArray[np.float32]:
        """Return the weights of a convolution of each channel, ``float32[channels, 1, taps]``.

        Raises:
            CheckpointError: They are missing or of another shape.
        """
        tensor = self._tensor(name, (channels, 1, taps))
        values = tensor.dense()
        self._note(name, tensor, values)
        return values

    def dense(self, name: str, rows: int, columns: int) -> NDArray[np.float32]:
        """Return what a weight stands for in the checkpoint, ``float32[rows, columns]``.

        At ``bf16``, it is rounded to that.

        Raises:
            CheckpointError: It is missing or of another shape.
        """
        weights = self._tensor(name, (rows, columns)).dense()
        return _rounded(weights) if self.precision == "bf16" else weights

    def table(self, name: str, rows: int, columns: int, dtype: str) -> NDArray[np.float32]:
        """As :meth:`dense`, for a weight that the graph holds so, in a type of its own.

        Args:
            name: Its name.
            rows: Its rows.
            columns: Its columns.
            dtype: That type, e.g. ``float16``.

        Raises:
            CheckpointError: It is missing or of another shape.
        """
        weights = self.dense(name, rows, columns)
        self.require_finite(name, weights)
        size = weights.size * (4 if dtype == "float32" else 2)
        held = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}[dtype]
        self.report.append(Held(name, self._tensor(name, weights.shape).kind, held, size))
        return weights

    def pieces(
        self, name: str, rows: int, columns: int
    ) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield ranges of the rows of :meth:`dense`, in order, with their values: 16 MB each.

        Raises:
            CheckpointError: The weight is missing or of another shape.
        """
        for part, weights in self._tensor(name, (rows, columns)).pieces(PIECE):
            yield part, _rounded(weights) if self.precision == "bf16" else weights

    def matrix(self, name: str, rows: int, columns: int) -> Matrix:
        """Return a weight of ``[rows, columns]`` at this precision.

        Raises:
            CheckpointError: It is missing or of another shape.
            UnsupportedModel: Its columns cannot be cut into blocks.
        """
        tensor = self._tensor(name, (rows, columns))
        matrix: Matrix | None = self._ready.pop(name, None)
        if matrix is None:
            matrix = self._at_precision(name, tensor, columns)
        self._note(name, tensor, matrix)
        return matrix

    def rounded(
        self, name: str, rows: int, columns: int, inputs: InputMoments | None
    ) -> NDArray[np.float32]:
        """Round a weight of ``[rows, columns]`` to 4 bits, and keep it for :meth:`matrix`.

        Args:
            name: Its name.
            rows: Its outputs.
            columns: Its inputs.
            inputs: What it will multiply; ``None`` has the weights alone decide.

        Returns:
            What it then stands for, ``float32[rows, columns]``.

        Raises:
            CheckpointError: It is missing or of another shape.
            UnsupportedModel: Its columns cannot be cut into blocks.
        """
        tensor = self._tensor(name, (rows, columns))
        self._check_blocks(name, columns)
        if inputs is None:
            matrix = quantize_pieces(tensor.pieces(), (rows, columns), 4)
            self._ready[name] = matrix
            return matrix.dequantize()
        weights = np.require(tensor.dense(), requirements="W")  # where it is no part of the file
        self.require_finite(name, weights)
        self._ready[name] = inputs.round(weights, weights)
        return weights

    def experts(self, name: str, count: int, rows: int, columns: int) -> list[Tensor]:
        """Return the matrices of ``[rows, columns]`` that a weight is a stack of, still on disk.

        Raises:
            CheckpointError: It is missing or of another shape.
            UnsupportedModel: Its columns cannot be cut into blocks.
        """
        tensor = self._tensor(name, (count * rows, columns))
        if self.precision in ("int8", "int4"):
            self._check_blocks(name, columns)
        return [tensor.part(slice(i * rows, (i + 1) * rows)) for i in range(count)]

    def keep(self, name: str, matrix: BlockMatrix) -> None:
        """Keep what a weight was rounded to for :meth:`matrix`."""
        self._ready[name] = matrix

    def stacked(
        self, rows: Mapping[str, int], columns: int
    ) -> list[tuple[Mapping[str, int], Matrix]]:
        """Return matrices of ``[rows[name], columns]`` that multiply the same activations.

        Those of one kind are stacked along their outputs, so that one product serves them all.

        Returns:
            Each matrix with the names and rows it consists of: all of them in one, or each alone.
        """
        matrices = [self.matrix(name, n, columns) for name, n in rows.items()]
        whole = _stack(matrices)
        if whole is not None:
            return [(rows, whole)]
        return [({name: rows[name]}, m) for name, m in zip(rows, matrices, strict=True)]

    def bias(self, rows: Mapping[str, int]) -> NDArray[np.float32]:
        """Return the biases of such matrices one after the other, ``float32[sum(rows)]``."""
        return np.concatenate([self.vector(f"{name}_bias", n) for name, n in rows.items()])

    def _at_precision(self, name: str, tensor: Tensor, columns: int) -> Matrix:
        if self.precision == "gguf":
            return tensor.blocks() or tensor.dense()
        if self.precision in _HALVES:
            # In its type from the start: in float32, the largest takes twice the room.
            values = np.empty(tensor.shape, _HALVES[self.precision])
            for rows, part in tensor.pieces():
                with np.errstate(over="ignore"):  # what it makes infinite is refused
                    values[rows] = part
            return values
        if self.precision == "fp32":
            return tensor.dense()
        self._check_blocks(name, columns)
        outer = name in ("embedding", "lm_head") or name.startswith("vectors.")
        bits: Bits = 8 if self.precision == "int8" or outer else 4
        own = tensor.blocks() if bits == 8 and tensor.kind == _KEPT else None
        if own is not None:
            return own
        return quantize_pieces(tensor.pieces(), (tensor.shape[0], columns), bits)

    def _check_blocks(self, name: str, columns: int) -> None:
        if columns % BLOCK:
            raise UnsupportedModel(
                f"{self.checkpoint.name}: {name} has {columns} columns, not a multiple of {BLOCK}; "
                "use --precision fp32"
            )

    def require_finite(self, name: str, matrix: Matrix) -> None:
        """Refuse a weight that holds infinity or what is no number.

        Raises:
            CheckpointError: It does.
            UnsupportedModel: It would, in 16 bits.
        """
        halves = "fp16" in (self.precision, self.beside)
        require_finite(self.checkpoint.name, name, matrix, halves=halves)

    def _note(self, name: str, tensor: Tensor, matrix: Matrix) -> None:
        self.require_finite(name, matrix)
        if isinstance(matrix, BlockMatrix):
            held, size = matrix.description, matrix.nbytes
            if self.beside == "fp16" or (self.beside == "bf16" and matrix.bits == 4):
                # What the scales are rounded to on their way into the graph.
                held, size = f"{held}, scales of 16 bits", size - _floats(matrix) * 2
        elif self.precision in _HALVES:
            held, size = self.precision, 2 * matrix.size
        elif self.beside != "fp32":
            held, size = self.beside, 2 * matrix.size
        else:
            held, size = "fp32", matrix.nbytes
        self.report.append(Held(name, tensor.kind, held, size))

    def _tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        tensor = self.checkpoint.tensor(name)
        if tensor.shape != shape:
            raise CheckpointError(
                f"{self.checkpoint.name}: {name} has shape {_shown(tensor.shape)}, "
                f"its configuration says {list(shape)}"
            )
        return tensor


def summed_up(report: Sequence[Held]) -> tuple[WeightGroup, ...]:
    """Sum up what became of the weights, those of all layers together."""
    groups: dict[tuple[str, str, str], list[int]] = {}
    for held in report:
        key = (held.name.rpartition(".")[2], held.source, held.held)
        groups.setdefault(key, []).append(held.nbytes)
    return tuple(
        WeightGroup(name=name, source=source, held=how, count=len(sizes), nbytes=sum(sizes))
        for (name, source, how), sizes in groups.items()
    )


def _floats(matrix: BlockMatrix) -> int:
    """Return how many floating-point numbers stand beside a matrix's integers."""
    return matrix.scales.size * (1 if matrix.offsets is None else 2)


def _rounded(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    return weights.astype(ml_dtypes.bfloat16).astype(np.float32)


def _stack(matrices: Sequence[Matrix]) -> Matrix | None:
    """Stack matrices along their outputs if they are of one kind, else return ``None``."""
    blocks = [m for m in matrices if isinstance(m, BlockMatrix)]
    if not blocks:
        return np.concatenate([m for m in matrices if not isinstance(m, BlockMatrix)])
    return concatenate(blocks) if len(blocks) == len(matrices) else None


def _shown(shape: tuple[int, ...]) -> str:
    """Return a shape as far as one line has room for it: a stranger's may have a million sizes."""
    return str(list(shape)) if len(shape) <= 8 else f"of {len(shape)} dimensions"
