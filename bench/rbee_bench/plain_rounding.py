"""An ``int4`` artifact with its matrices rounded to the nearest: what a better method is beside."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rbee_export.blocks import BlockMatrix, pack, shortened
from rbee_export.checkpoint import Checkpoint
from rbee_runtime.artifact import MANIFEST_NAME, Artifact


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


def rounded_plainly(artifact: Artifact, checkpoint: Checkpoint, target: Path) -> Path:
    """Copy an ``int4`` artifact, its four-bit matrices rounded to the nearest; return ``target``.

    Format and size stay as they are.

    Args:
        artifact: What to copy.
        checkpoint: What it was made from.
        target: Where to; nothing is there.

    Raises:
        OSError: There is no room.
    """
    shutil.copytree(artifact.path, target)
    round_stacks(target, checkpoint)
    manifest = artifact.manifest
    files = []
    for entry in manifest.files:
        with (target / entry.path).open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        files.append(entry.model_copy(update={"sha256": sha256}))
    changed = manifest.model_copy(update={"files": tuple(files), "fidelity": None})
    (target / MANIFEST_NAME).write_text(changed.model_dump_json(), encoding="utf-8")
    return target


def round_stacks(artifact: Path, checkpoint: Checkpoint) -> None:
    """Replace the four-bit matrices of an artifact by its checkpoint's, rounded to the nearest."""
    for stack in stacks(artifact):
        if stack.matrix.bits == 4:
            whole = np.concatenate([checkpoint.tensor(name).dense() for name in stack.names])
            packed, scales = _nearest(whole.reshape(*stack.matrix.scales.shape, -1))
            contents = packed.tobytes(), scales.astype(stack.matrix.scales.dtype).tobytes()
            for (file, offset), content in zip(stack.places, contents, strict=True):
                with file.open("r+b") as stream:
                    stream.seek(offset)
                    stream.write(content)


def _nearest(blocks: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return integers, packed, and scales, each of which maps its block's largest weight to 7."""
    scales = shortened((np.abs(blocks).max(-1) / 7).astype(np.float32))
    q = np.rint(blocks / np.where(scales == 0, 1, scales)[..., None])
    return pack((np.clip(q, -7, 7) + 8).astype(np.uint8), 4), scales
