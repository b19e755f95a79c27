"""Attention among the tokens of each of several texts that stand one after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from rbee_export.dialect.functions import DOMAIN
from rbee_export.dialect.graph import FLOATS

Emit = Callable[[str, Sequence[ir.Value | None], Mapping[str, Any]], ir.Value]

_MS = "com.microsoft"

_HIDDEN = -30000.0
"""Added to the score of a token of another text: next to it every exponential is zero, and it is
still a number where floats have 16 bits.
"""


def packed_attention(opset: int, dtype: ir.DataType) -> ir.Function:
    """Return ``PackedAttention``: softmax(q kᵀ / sqrt(head_dim)) v within each text.

    Its inputs are ``qkv``, ``float[1, T, 3 * hidden]``, queries, keys and values side by side, each
    head after head; and ``cu_seqlens``, ``int32[N + 1]``: where each of N texts begins, and T.
    Its output is ``float[1, T, hidden]``, its attribute ``num_heads``.

    The body computes all T * T scores, and hides those between texts.

    Args:
        opset: Version of ONNX's own operators.
        dtype: What the graph computes in.
    """
    tape = Tape()
    qkv, cu_seqlens = ir.Value(name="qkv"), ir.Value(name="cu_seqlens")
    tokens = tape.op("Shape", [qkv], {"start": 1, "end": 2})
    number = text_numbers(tape.op, tokens, cu_seqlens)
    columns = tape.op("Unsqueeze", [number, _list(tape.op, 0)])
    same = tape.op("Equal", [tape.op("Unsqueeze", [number, _list(tape.op, 1)]), columns])
    seen, hidden = (_number(tape, value, dtype) for value in (0.0, _HIDDEN))
    bias = tape.op("Where", [same, seen, hidden])
    bias = tape.op("Unsqueeze", [bias, _list(tape.op, 0, 1)])
    q, k, v = tape.op_multi_out("Split", [qkv], {"axis": -1, "num_outputs": 3}, num_outputs=3)
    heads = ir.RefAttr("num_heads", "num_heads", ir.AttributeType.INT)
    attended = tape.op(
        "MultiHeadAttention", [q, k, v, None, None, bias], {"num_heads": heads}, domain=_MS
    )
    body = ir.Graph(
        [qkv, cu_seqlens], [attended], nodes=tape.nodes, opset_imports={"": opset, _MS: 1}
    )
    given = [ir.Attr("num_heads", ir.AttributeType.INT, None)]
    return ir.Function(DOMAIN, "PackedAttention", graph=body, attributes=given)


def text_numbers(emit: Emit, tokens: ir.Value, cu_seqlens: ir.Value) -> ir.Value:
    """Return which text each token belongs to, ``int32[T]``, counted from 1.

    Args:
        emit: Emits a node and returns its output.
        tokens: T, ``int64[1]``.
        cu_seqlens: Where each text begins, and T, ``int32[N + 1]``.
    """
    # A one where each text begins, and one behind the last token; then how many there are so far.
    size = emit("Add", [tokens, _list(emit, 1)], {})
    zero, one = (ir.tensor(np.full(1, value, np.int32)) for value in (0, 1))
    none = emit("ConstantOfShape", [size], {"value": zero})
    ones = emit("ConstantOfShape", [emit("Shape", [cu_seqlens], {})], {"value": one})
    begun = emit("ScatterElements", [none, cu_seqlens, ones], {"axis": 0})
    counted = emit("CumSum", [begun, emit("Constant", [], {"value_int": 0})], {})
    return emit("Slice", [counted, _list(emit, 0), tokens], {})


def _number(tape: Tape, value: float, dtype: ir.DataType) -> ir.Value:
    return tape.op("Constant", [], {"value": ir.tensor(np.asarray(value, FLOATS[dtype]))})


def _list(emit: Emit, *values: int) -> ir.Value:
    tensor = ir.tensor(np.asarray(values, np.int64))
    return emit("Constant", [], {"value": tensor})
