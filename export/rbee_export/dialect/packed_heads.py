"""What is done to the heads of tokens in functions that attend to packed texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from rbee_export.dialect.packed_attention import ints

INT, FLOAT = ir.AttributeType.INT, ir.AttributeType.FLOAT
EPSILON = "epsilon"


def split_heads(tape: Tape, qkv: ir.Value) -> Sequence[ir.Value]:
    """Return queries, keys and values that stand side by side, ``float[1, T, ...]`` each.

    The function has the attributes ``num_heads`` and ``kv_num_heads``.
    """
    queries, shared = (
        tape.op("Unsqueeze", [tape.op("Constant", [], {"value_int": value}), ints(tape.op, 0)])
        for value in (same(name, INT, "value_int") for name in ("num_heads", "kv_num_heads"))
    )
    heads = tape.op("Concat", [queries, shared, shared], {"axis": 0})
    width = tape.op("Shape", [qkv], {"start": 2})
    head_dim = tape.op("Div", [width, tape.op("ReduceSum", [heads], {"keepdims": 1})])
    sizes = tape.op("Mul", [heads, head_dim])
    return tape.op_multi_out("Split", [qkv, sizes], {"axis": -1}, num_outputs=3)


def normed_heads(tape: Tape, dtype: ir.DataType, x: ir.Value, weight: ir.Value) -> ir.Value:
    """Return ``x`` with each of its parts as wide as ``weight`` normalised.

    The function has the attribute ``epsilon``.
    """
    cut = [ints(tape.op, 0, 0, -1), tape.op("Shape", [weight])]
    parts = tape.op("Reshape", [x, tape.op("Concat", cut, {"axis": 0})])
    # SimplifiedLayerNormalization does all of this, but ONNX Runtime has it in no function.
    wide = tape.op("Cast", [parts], {"to": ir.DataType.FLOAT})
    squares = tape.op("Mul", [wide, wide])
    mean = tape.op("ReduceMean", [squares, ints(tape.op, -1)], {"keepdims": 1})
    epsilon = tape.op("Constant", [], {"value_float": same(EPSILON, FLOAT, "value_float")})
    normed = tape.op("Div", [wide, tape.op("Sqrt", [tape.op("Add", [mean, epsilon])])])
    normed = tape.op("Mul", [tape.op("Cast", [normed], {"to": dtype}), weight])
    return tape.op("Reshape", [normed, ints(tape.op, 0, 0, -1)])


def same(of_function: str, kind: ir.AttributeType, name: str | None = None) -> ir.Attr:
    """Return an attribute of a node that is as the function's is."""
    return ir.RefAttr(name or of_function, of_function, kind)


def scalar(tape: Tape, value: int) -> ir.Value:
    """Return a constant of ``int32`` without dimensions."""
    return tape.op("Constant", [], {"value": ir.tensor(np.asarray(value, np.int32))})
