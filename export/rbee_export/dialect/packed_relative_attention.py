"""Attention within each of several texts, with biases by how far apart tokens are."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from rbee_export.dialect.functions import DOMAIN
from rbee_export.dialect.packed_attention import PackedBody, attended, ints

_MS = "com.microsoft"


def packed_relative_attention(opset: int, dtype: ir.DataType) -> ir.Function:
    """Return ``PackedRelativeAttention``: softmax(q kᵀ / sqrt(head_dim) + bias) v within each text.

    Inputs, output and attribute are those of ``PackedAttention``, but for a third input, ``bias``,
    ``float[num_heads, 2 * longest - 1]``: what is added to scores of keys ``longest - 1`` before
    the query, and so on, up to those as far behind it. No text has more than ``longest`` tokens.

    Args:
        opset: Version of ONNX's own operators.
        dtype: What the graph computes in; float32 is for the CPU.
    """
    inputs = [ir.Value(name=name) for name in ("qkv", "cu_seqlens", "bias")]
    body = _Body(opset, dtype, *inputs)
    output = body.either() if dtype == ir.DataType.FLOAT else body.hiding(body.tape)
    graph = ir.Graph(inputs, [output], nodes=body.tape.nodes, opset_imports={"": opset, _MS: 1})
    given = [ir.Attr("num_heads", ir.AttributeType.INT, None)]
    return ir.Function(DOMAIN, "PackedRelativeAttention", graph=graph, attributes=given)


class _Body(PackedBody):
    def __init__(
        self,
        opset: int,
        dtype: ir.DataType,
        qkv: ir.Value,
        cu_seqlens: ir.Value,
        bias: ir.Value,
    ) -> None:
        super().__init__(opset, dtype, qkv, cu_seqlens)
        self._bias = bias

    def _attended_hiding(self, tape: Tape, bias: ir.Value) -> ir.Value:
        own = self._of_distances(tape, self._tokens)
        return attended(tape, self._qkv, None, tape.op("Add", [bias, own]))

    def _attended_padded(
        self, tape: Tape, rows: ir.Value, lengths: ir.Value, longest: ir.Value
    ) -> ir.Value:
        wide = tape.op("Cast", [longest], {"to": ir.DataType.INT64})
        return attended(tape, rows, lengths, self._of_distances(tape, wide))

    def _of_distances(self, tape: Tape, tokens: ir.Value) -> ir.Value:
        """Return the bias of so many queries and as many keys, ``float[1, num_heads, S, S]``."""
        zero, one = (
            tape.op("Constant", [], {"value": ir.tensor(np.asarray(value, np.int64))})
            for value in (0, 1)
        )
        places = tape.op("Range", [zero, tape.op("Squeeze", [tokens]), one])
        later = tape.op("Sub", [places, tape.op("Unsqueeze", [places, ints(tape.op, 1)])])
        last = tape.op("Sub", [tape.op("Shape", [self._bias], {"start": 1}), ints(tape.op, 1)])
        # Those of other texts may be farther away than any bias is for, and are hidden.
        rows = tape.op("Add", [later, tape.op("Div", [last, ints(tape.op, 2)])])
        rows = tape.op("Min", [tape.op("Max", [rows, zero]), last])
        biases = tape.op("Gather", [self._bias, rows], {"axis": 1})
        return tape.op("Unsqueeze", [biases, ints(tape.op, 0)])
