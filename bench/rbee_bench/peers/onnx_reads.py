"""What an ONNX graph reads for one token."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

_PICKING = {"Gather", "GatherBlockQuantized", "GroupQueryAttention", "RotaryEmbedding"}
"""Operators that read a row of a constant, not all of it."""


def weight_bytes(file: Path) -> int:
    """Return the bytes of all constants that a step reads from end to end, as they are stored."""
    return sum(
        value.const_value.nbytes
        for value in ir.load(file).graph.initializers.values()
        if value.const_value is not None
        and any(use.node.op_type not in _PICKING for use in value.uses())
    )
