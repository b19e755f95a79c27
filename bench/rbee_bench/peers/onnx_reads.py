"""What an ONNX graph reads and computes for one token.

An engine whose start is measured must not wait for the library that reads graphs, nor hold it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

_PICKING = {"Gather", "GatherBlockQuantized", "GroupQueryAttention", "RotaryEmbedding"}
"""Operators that read a row of a constant, not all of it."""

_BLOCK_PRODUCTS = {
    "MatMulNBits",
    "BlockProduct",
    *(
        f"Gated{gate}{kind}Product"
        for gate in ("Silu", "Gelu", "ErfGelu")
        for kind in ("", "Block")
    ),
}
_PRODUCTS = {"MatMul", "FusedMatMul", "Gemm"}


def weight_bytes(file: Path) -> int:
    """Return the bytes of constants that a step of one token reads, as they are stored.

    It reads most from end to end, and of a layer's experts those that the token is given.
    """
    import onnx_ir as ir

    return round(
        sum(
            value.const_value.nbytes * max((_share(use.node) for use in value.uses()), default=0)
            for value in ir.load(file).graph.initializers.values()
            if value.const_value is not None
        )
    )


def matrix_operations(file: Path) -> int:
    """Return the operations of a token's products with constant matrices, two a weight."""
    import onnx_ir as ir

    count = 0
    for node in ir.load(file).graph:
        if _has_experts(node):
            # Gate, up and down of each that the token is given.
            experts, width = node.attributes["active"].as_int(), node.attributes["N"].as_int()
            count += experts * 3 * width * node.attributes["K"].as_int()
        elif node.op_type in _BLOCK_PRODUCTS:
            count += node.attributes["K"].as_int() * node.attributes["N"].as_int()
        elif node.op_type in _PRODUCTS:
            constant = node.inputs[1]
            if constant is not None and constant.const_value is not None:
                count += constant.const_value.size
    return 2 * count


def _has_experts(node: ir.Node) -> bool:
    return node.op_type.startswith("Gated") and "Experts" in node.op_type


def _share(node: ir.Node) -> float:
    """Return the part of a constant that a node reads for one token; 0 for a row or so."""
    if _has_experts(node):
        return node.attributes["active"].as_int() / node.attributes["experts"].as_int()
    return 0 if node.op_type in _PICKING else 1
