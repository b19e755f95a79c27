"""Causal attention within each of several texts that stand one after another: decoders'."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.tape import Tape

from rbee_export.dialect.functions import DOMAIN
from rbee_export.dialect.packed_attention import PackedBody, ints
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

_INTEGERS = ("num_heads", "kv_num_heads", "local_window_size")
_NUMBERS = ("scale", "softcap")
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
    given = [ir.Attr(name, INT, None) for name in _INTEGERS]
    given += [ir.Attr(name, FLOAT, None) for name in _NUMBERS]
    if norms:
        given.append(ir.Attr(EPSILON, FLOAT, None))
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
        q, k, v = split_heads(self.tape, qkv)
        parts = [
            normed_heads(self.tape, self._dtype, x, weight)
            for x, weight in zip((q, k), norms, strict=True)
        ]
        return self.tape.op("Concat", [*parts, v], {"axis": -1})

    def _attended_hiding(self, tape: Tape, bias: ir.Value) -> ir.Value:
        # Angles are those of where in its text each token stands.
        text = tape.op("Sub", [self._number, scalar(tape, 1)])
        count = tape.op("Cast", [tape.op("Squeeze", [self._tokens])], {"to": ir.DataType.INT32})
        every = tape.op("Range", [scalar(tape, 0), count, scalar(tape, 1)])
        own = tape.op("Sub", [every, tape.op("Gather", [self._cu_seqlens, text])])
        angles = [tape.op("Gather", [table, own]) for table in self._angles]
        last = tape.op("Sub", [count, scalar(tape, 1)])
        filled = [tape.op("Unsqueeze", [last, ints(tape.op, 0)]), count]
        return _attended(tape, [self._qkv, *_NO_CACHE, *filled, *angles, None, bias])

    def _attended_padded(
        self, tape: Tape, rows: ir.Value, lengths: ir.Value, longest: ir.Value
    ) -> ir.Value:
        last = tape.op("Sub", [lengths, scalar(tape, 1)])
        filled = [last, tape.op("Squeeze", [longest])]
        return _attended(tape, [rows, *_NO_CACHE, *filled, *self._angles])


def _attended(tape: Tape, inputs: Sequence[ir.Value | None]) -> ir.Value:
    how = {name: same(name, INT) for name in _INTEGERS}
    how |= {name: same(name, FLOAT) for name in _NUMBERS}
    how["do_rotary"] = ir.AttrInt64("do_rotary", 1)
    attended, *_ = tape.op_multi_out("GroupQueryAttention", inputs, how, num_outputs=3, domain=_MS)
    return attended
