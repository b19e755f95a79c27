"""What an ONNX graph reads and computes for one token.

An engine whose start is measured must not wait for the library that reads graphs, nor hold it.
"""

from __future__ import annotations

from pathlib import Path

_PICKING = {"Gather", "GatherBlockQuantized", "GroupQueryAttention", "RotaryEmbedding"}
"""Operators that read a row of a constant, not all of it."""

_BLOCK_PRODUCTS = {
    "MatMulNBits",
    "BlockProduct",
    *(f"Gated{gate}{kind}Product" for gate in ("Silu", "Gelu") for kind in ("", "Block")),
}
_PRODUCTS = {"MatMul", "FusedMatMul", "Gemm"}


def weight_bytes(file: Path) -> int:
    """Return the bytes of all constants that a step reads from end to end, as they are stored."""
    import onnx_ir as ir

    return sum(
        value.const_value.nbytes
        for value in ir.load(file).graph.initializers.values()
        if value.const_value is not None
        and any(use.node.op_type not in _PICKING for use in value.uses())
    )


def matrix_operations(file: Path) -> int:
    """Return the operations of a token's products with constant matrices, two a weight."""
    import onnx_ir as ir

    count = 0
    for node in ir.load(file).graph:
        if node.op_type in _BLOCK_PRODUCTS:
            count += node.attributes["K"].as_int() * node.attributes["N"].as_int()
        elif node.op_type in _PRODUCTS:
            constant = node.inputs[1]
            if constant is not None and constant.const_value is not None:
                count += constant.const_value.size
    return 2 * count
