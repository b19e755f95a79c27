"""What an artifact's matrices are, read from its graph and its weights files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rbee_export.blocks import BlockMatrix, pack


@dataclass(frozen=True, slots=True)
class Stack:
    """Matrices of four-bit or eight-bit blocks that stand below each other in an artifact.

    Attributes:
        names: Their canonical names.
        matrix: All of them.
        places: The files and offsets of its integers and of its scales.
    """

    names: tuple[str, ...]
    matrix: BlockMatrix
    places: tuple[tuple[Path, int], tuple[Path, int]]


def stacks(artifact: Path) -> Iterator[Stack]:
    """Read the matrices without offsets that an ``ort`` artifact holds in blocks."""
    found = ir.load(artifact / "model.onnx").graph.initializers
    tensors = {name.partition(":")[0]: value.const_value for name, value in found.items()}
    for name, packed in tensors.items():
        stack, dot, _ = name.rpartition(".packed")
        if dot:
            scales = tensors[f"{stack}.scales"]
            assert isinstance(packed, ir.ExternalTensor)
            assert isinstance(scales, ir.ExternalTensor)
            width = packed.size // scales.size
            integers = packed.numpy().reshape(*scales.shape.numpy(), width)
            matrix = BlockMatrix(8 if width == 32 else 4, integers, scales.numpy())
            places = [(Path(tensor.path), tensor.offset or 0) for tensor in (packed, scales)]
            yield Stack(tuple(stack.split("+")), matrix, (places[0], places[1]))


def blocks_by_name(artifact: Path, rows: Mapping[str, int]) -> dict[str, BlockMatrix]:
    """Return an artifact's matrices by canonical name, given how many rows each has."""
    matrices = {}
    for stack in stacks(artifact):
        start, whole = 0, stack.matrix
        for name in stack.names:
            part = slice(start, start + rows[name])
            matrices[name] = BlockMatrix(whole.bits, whole.packed[part], whole.scales[part])
            start = part.stop
    return matrices


def round_plainly(artifact: Path, weights: Mapping[str, NDArray[np.float32]]) -> None:
    """Replace the four-bit matrices of an artifact by weights rounded to the nearest.

    Each block's scale maps its largest weight to 7.
    """
    for stack in stacks(artifact):
        if stack.matrix.bits == 4:
            whole = np.concatenate([weights[name] for name in stack.names])
            blocks = whole.reshape(*stack.matrix.scales.shape, -1)
            scales = (np.abs(blocks).max(-1) / 7).astype(np.float32)
            q = np.rint(blocks / np.where(scales == 0, 1, scales)[..., None])
            contents = pack((np.clip(q, -7, 7) + 8).astype(np.uint8), 4), scales
            for (file, offset), content in zip(stack.places, contents, strict=True):
                with file.open("r+b") as stream:
                    stream.seek(offset)
                    stream.write(content.tobytes())
