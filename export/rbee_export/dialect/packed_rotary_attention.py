"""Attention within each of several texts to what is near, heads turned by where tokens stand."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.tape import Tape

from rbee_export.dialect.functions import DOMAIN
from rbee_export.dialect.packed_attention import PackedBody, attended, ints, split_evenly
from rbee_export.dialect.packed_heads import (
    EPSILON,
    FLOAT,
    INT,
    normed_heads,
    same,
    scalar,
    split_heads,
)

_MS = "com.microsoft"
_SCALE = "scale"


def packed_rotary_attention(
    opset: int, dtype: ir.DataType, *, norms: bool = False, shared: bool = False
) -> ir.Function:
    """Return ``PackedRotaryAttention``: a token sees those of its text that are near it.

    Its inputs are those of ``PackedCausalAttention``, ``cos`` and ``sin`` of whole heads, and so is
    its output. Of its attributes, ``num_heads``, ``kv_num_heads`` and ``epsilon`` are so, too;
    ``reach`` is how many tokens before it, and after it, a token sees; ``scale`` multiplies scores.

    Bodies are as those of ``PackedAttention``.

    Args:
        opset: Version of ONNX's own operators.
        dtype: What the graph computes in; float32 is for the CPU.
        norms: Whether queries and keys are normalised.
        shared: Whether several query heads share a key head.
    """
    names = ["qkv", "cu_seqlens", "cos", "sin", *(["q_norm", "k_norm"] if norms else [])]
    inputs = [ir.Value(name=name) for name in names]
    body = _Body(opset, dtype, inputs, shared=shared)
    output = body.either() if dtype == ir.DataType.FLOAT else body.hiding(body.tape)
    graph = ir.Graph(inputs, [output], nodes=body.tape.nodes, opset_imports={"": opset, _MS: 1})
    given = [ir.Attr(name, INT, None) for name in ("num_heads", "kv_num_heads", "reach")]
    given += [ir.Attr(name, FLOAT, None) for name in (_SCALE, *([EPSILON] if norms else []))]
    return ir.Function(DOMAIN, "PackedRotaryAttention", graph=graph, attributes=given)


class _Body(PackedBody):
    def __init__(
        self, opset: int, dtype: ir.DataType, inputs: list[ir.Value], *, shared: bool
    ) -> None:
        qkv, cu_seqlens, cos, sin, *norms = inputs
        super().__init__(opset, dtype, qkv, cu_seqlens)
        self._angles: list[ir.Value] | None = None
        tape = self.tape
        queries, keys, values = split_heads(tape, qkv) if shared else split_evenly(tape, qkv)
        parts = [queries, keys]
        if norms:
            parts = [
                normed_heads(tape, dtype, x, weight) for x, weight in zip(parts, norms, strict=True)
            ]
        queries, keys = (self._turned(x, (cos, sin)) for x in parts)
        if shared:
            keys, values = self._repeated(keys), self._repeated(values)
        self._qkv = tape.op("Concat", [queries, keys, values], {"axis": -1})

    def _turned(self, x: ir.Value, tables: tuple[ir.Value, ir.Value]) -> ir.Value:
        """Return heads turned by where each token stands in its text."""
        tape = self.tape
        if self._angles is None:
            text = tape.op("Sub", [self._number, scalar(tape, 1)])
            count = tape.op("Cast", [tape.op("Squeeze", [self._tokens])], {"to": ir.DataType.INT32})
            every = tape.op("Range", [scalar(tape, 0), count, scalar(tape, 1)])
            own = tape.op("Sub", [every, tape.op("Gather", [self._cu_seqlens, text])])
            # The operator takes no more tokens than there are angles.
            angles = [tape.op("Gather", [table, own]) for table in tables]
            places = tape.op("Cast", [every], {"to": ir.DataType.INT64})
            self._angles = [tape.op("Unsqueeze", [places, ints(tape.op, 0)]), *angles]
        return tape.op("RotaryEmbedding", [x, *self._angles], domain=_MS)

    def _repeated(self, x: ir.Value) -> ir.Value:
        """Return key or value heads, each as often as query heads share it."""
        tape = self.tape
        queries, shared = (
            tape.op("Unsqueeze", [tape.op("Constant", [], {"value_int": value}), ints(tape.op, 0)])
            for value in (same(name, INT, "value_int") for name in ("num_heads", "kv_num_heads"))
        )
        rows = ints(tape.op, 0, 0)
        heads = tape.op("Concat", [rows, shared, ints(tape.op, 1, -1)], {"axis": 0})
        ones = ints(tape.op, 1, 1, 1)
        times = tape.op("Div", [queries, shared])
        often = tape.op("Concat", [ones, times, ints(tape.op, 1)], {"axis": 0})
        repeated = tape.op("Expand", [tape.op("Reshape", [x, heads]), often])
        return tape.op("Reshape", [repeated, ints(tape.op, 0, 0, -1)])

    def _attended_hiding(self, tape: Tape, bias: ir.Value) -> ir.Value:
        far = self._of_far(tape, self._tokens)
        return self._near(tape, self._qkv, None, tape.op("Min", [bias, far]))

    def _attended_padded(
        self, tape: Tape, rows: ir.Value, lengths: ir.Value, longest: ir.Value
    ) -> ir.Value:
        wide = tape.op("Cast", [longest], {"to": ir.DataType.INT64})
        return self._near(tape, rows, lengths, self._of_far(tape, wide))

    def _near(
        self, tape: Tape, qkv: ir.Value, lengths: ir.Value | None, bias: ir.Value
    ) -> ir.Value:
        return attended(tape, qkv, lengths, bias, {_SCALE: same(_SCALE, FLOAT)})

    def _of_far(self, tape: Tape, tokens: ir.Value) -> ir.Value:
        """Return what hides tokens out of reach of each other, ``float[1, 1, S, S]``."""
        count = tape.op("Cast", [tape.op("Squeeze", [tokens])], {"to": ir.DataType.INT32})
        places = tape.op("Range", [scalar(tape, 0), count, scalar(tape, 1)])
        later = tape.op("Sub", [places, tape.op("Unsqueeze", [places, ints(tape.op, 1)])])
        reach = tape.op("Constant", [], {"value_int": same("reach", INT, "value_int")})
        reach = tape.op("Cast", [reach], {"to": ir.DataType.INT32})
        near = tape.op("LessOrEqual", [tape.op("Abs", [later]), reach])
        return self.hidden_unless(tape, near)
