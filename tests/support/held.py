"""What an artifact's matrices are, read from its graph and its weights files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rbee_bench.plain_rounding import stacks
from rbee_export.blocks import BlockMatrix


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
