"""Causal attention within each of several texts that stand one after another: decoders'."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from rbee_export.dialect.functions import DOMAIN
from rbee_export.dialect.packed_attention import PackedBody, ints

_MS = "com.microsoft"

_INT, _FLOAT = ir.AttributeType.INT, ir.AttributeType.FLOAT
_INTEGERS = ("num_heads", "kv_num_heads", "local_window_size")
_NUMBERS = ("scale", "softcap")
_EPSILON = "epsilon"
_NO_CACHE = (None,) * 4
"""In place of keys and values, which stand beside the queries, and of those before them."""


def packed_causal_attention(opset: int, dtype: ir.DataType, *, norms: bool) -> ir.Function:
    """Return ``PackedCausalAttention``: what ``GroupQueryAttention`` does, within each text.

    Its inputs are

        qkv          float[1, T, (num_heads + 2 * kv_num_heads) * head_dim], queries, keys and
                     values side by side, each head after head
        cu_seqlens   int32[N + 1], where each of N texts begins, and T
        cos, sin     float[positions, dims / 2], of the angles by which heads are turned; a text's
                     first token is at position 0
        q_norm, k_norm    float[head_dim], or as wide as all queries and as all keys: weights of
                     their RMS norms; with ``norms`` only

    Its output is ``float[1, T, num_heads * head_dim]``. Of its attributes, ``local_window_size``
    is the latest positions that a token sees, its own included, or -1 for all; ``scale`` and
    ``softcap``, 0 for none, are those of the scores; ``epsilon`` is added in norms.

    The body has ONNX Runtime compute all T * T scores and hides those between texts; or on the CPU,
    where that is less, those of texts that are padded to the longest of them. On GPUs, which keep
    no scores, it always pads.

    Args:
        opset: Version of ONNX's own operators.
        dtype: What the graph computes in; float32 is for the CPU.
        norms: Whether queries and keys are normalised.
    """
    names = ["qkv", "cu_seqlens", "cos", "sin", *(["q_norm", "k_norm"] if norms else [])]
    inputs = [ir.Value(name=name) for name in names]
    body = _Body(opset, dtype, inputs)
    attended = body.either() if dtype == ir.DataType.FLOAT else body.padding()
    graph = ir.Graph(inputs, [attended], nodes=body.tape.nodes, opset_imports={"": opset, _MS: 1})
    given = [ir.Attr(name, _INT, None) for name in _INTEGERS]
    given += [ir.Attr(name, _FLOAT, None) for name in _NUMBERS]
    if norms:
        given.append(ir.Attr(_EPSILON, _FLOAT, None))
    return ir.Function(DOMAIN, "PackedCausalAttention", graph=graph, attributes=given)


class _Body(PackedBody):
    def __init__(self, opset: int, dtype: ir.DataType, inputs: list[ir.Value]) -> None:
        qkv, cu_seqlens, cos, sin, *norms = inputs
        super().__init__(opset, dtype, qkv, cu_seqlens)
        self._angles = (cos, sin)
        if norms:
            self._qkv = self._normed(qkv, norms)

    def _normed(self, qkv: ir.Value, norms: list[ir.Value]) -> ir.Value:
        """Return ``qkv`` with queries and keys normalised."""
        tape = self.tape
        queries, shared = (
            tape.op("Unsqueeze", [tape.op("Constant", [], {"value_int": value}), ints(tape.op, 0)])
            for value in (_same(name, _INT, "value_int") for name in ("num_heads", "kv_num_heads"))
        )
        heads = tape.op("Concat", [queries, shared, shared], {"axis": 0})
        width = tape.op("Shape", [qkv], {"start": 2})
        head_dim = tape.op("Div", [width, tape.op("ReduceSum", [heads], {"keepdims": 1})])
        sizes = tape.op("Mul", [heads, head_dim])
        q, k, v = tape.op_multi_out("Split", [qkv, sizes], {"axis": -1}, num_outputs=3)
        parts = [self._norm(x, weight) for x, weight in zip((q, k), norms, strict=True)]
        return tape.op("Concat", [*parts, v], {"axis": -1})

    def _norm(self, x: ir.Value, weight: ir.Value) -> ir.Value:
        """Return ``x`` with each of its parts as wide as ``weight`` normalised."""
        tape = self.tape
        cut = [ints(tape.op, 0, 0, -1), tape.op("Shape", [weight])]
        parts = tape.op("Reshape", [x, tape.op("Concat", cut, {"axis": 0})])
        # SimplifiedLayerNormalization does all of this, but ONNX Runtime has it in no function.
        wide = tape.op("Cast", [parts], {"to": ir.DataType.FLOAT})
        squares = tape.op("Mul", [wide, wide])
        mean = tape.op("ReduceMean", [squares, ints(tape.op, -1)], {"keepdims": 1})
        epsilon = tape.op("Constant", [], {"value_float": _same(_EPSILON, _FLOAT, "value_float")})
        normed = tape.op("Div", [wide, tape.op("Sqrt", [tape.op("Add", [mean, epsilon])])])
        normed = tape.op("Mul", [tape.op("Cast", [normed], {"to": self._dtype}), weight])
        return tape.op("Reshape", [normed, ints(tape.op, 0, 0, -1)])

    def _attended_hiding(self, tape: Tape, bias: ir.Value) -> ir.Value:
        # Angles are those of where in its text each token stands.
        text = tape.op("Sub", [self._number, _scalar(tape, 1)])
        count = tape.op("Cast", [tape.op("Squeeze", [self._tokens])], {"to": ir.DataType.INT32})
        every = tape.op("Range", [_scalar(tape, 0), count, _scalar(tape, 1)])
        own = tape.op("Sub", [every, tape.op("Gather", [self._cu_seqlens, text])])
        angles = [tape.op("Gather", [table, own]) for table in self._angles]
        last = tape.op("Sub", [count, _scalar(tape, 1)])
        filled = [tape.op("Unsqueeze", [last, ints(tape.op, 0)]), count]
        return _attended(tape, [self._qkv, *_NO_CACHE, *filled, *angles, None, bias])

    def _attended_padded(
        self, tape: Tape, rows: ir.Value, lengths: ir.Value, longest: ir.Value
    ) -> ir.Value:
        last = tape.op("Sub", [lengths, _scalar(tape, 1)])
        filled = [last, tape.op("Squeeze", [longest])]
        return _attended(tape, [rows, *_NO_CACHE, *filled, *self._angles])


def _attended(tape: Tape, inputs: Sequence[ir.Value | None]) -> ir.Value:
    how = {name: _same(name, _INT) for name in _INTEGERS}
    how |= {name: _same(name, _FLOAT) for name in _NUMBERS}
    how["do_rotary"] = ir.AttrInt64("do_rotary", 1)
    attended, *_ = tape.op_multi_out("GroupQueryAttention", inputs, how, num_outputs=3, domain=_MS)
    return attended


def _same(of_function: str, kind: ir.AttributeType, name: str | None = None) -> ir.Attr:
    """Return an attribute of a node that is as the function's is."""
    return ir.RefAttr(name or of_function, of_function, kind)


def _scalar(tape: Tape, value: int) -> ir.Value:
    return tape.op("Constant", [], {"value": ir.tensor(np.asarray(value, np.int32))})
