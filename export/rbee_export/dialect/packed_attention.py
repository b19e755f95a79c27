"""Attention among the tokens of each of several texts that stand one after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
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

    The body computes all T * T scores and hides those between texts; or on the CPU, where that is
    less, those of texts that are padded to the longest of them.

    Args:
        opset: Version of ONNX's own operators.
        dtype: What the graph computes in; float32 is for the CPU.
    """
    qkv, cu_seqlens = ir.Value(name="qkv"), ir.Value(name="cu_seqlens")
    body = PackedBody(opset, dtype, qkv, cu_seqlens)
    tape = body.tape
    attended = body.either() if dtype == ir.DataType.FLOAT else body.hiding(tape)
    graph = ir.Graph(
        [qkv, cu_seqlens], [attended], nodes=tape.nodes, opset_imports={"": opset, _MS: 1}
    )
    given = [ir.Attr("num_heads", ir.AttributeType.INT, None)]
    return ir.Function(DOMAIN, "PackedAttention", graph=graph, attributes=given)


def text_numbers(emit: Emit, tokens: ir.Value, cu_seqlens: ir.Value) -> ir.Value:
    """Return which text each token belongs to, ``int32[T]``, counted from 1.

    Args:
        emit: Emits a node and returns its output.
        tokens: T, ``int64[1]``.
        cu_seqlens: Where each text begins, and T, ``int32[N + 1]``.
    """
    # A one where each text begins, and one behind the last token; then how many there are so far.
    size = emit("Add", [tokens, ints(emit, 1)], {})
    zero, one = (ir.tensor(np.full(1, value, np.int32)) for value in (0, 1))
    none = emit("ConstantOfShape", [size], {"value": zero})
    ones = emit("ConstantOfShape", [emit("Shape", [cu_seqlens], {})], {"value": one})
    begun = emit("ScatterElements", [none, cu_seqlens, ones], {"axis": 0})
    counted = emit("CumSum", [begun, emit("Constant", [], {"value_int": 0})], {})
    return emit("Slice", [counted, ints(emit, 0), tokens], {})


class PackedBody:
    """The body of attention within each of some texts, under construction.

    Attributes:
        tape: Its nodes so far.
    """

    def __init__(self, opset: int, dtype: ir.DataType, qkv: ir.Value, cu_seqlens: ir.Value) -> None:
        self.tape = tape = Tape()
        self._opset = opset
        self._dtype = dtype
        self._qkv = qkv
        self._tokens = tape.op("Shape", [qkv], {"start": 1, "end": 2})
        self._number = text_numbers(tape.op, self._tokens, cu_seqlens)
        self._cu_seqlens = cu_seqlens

    def either(self) -> ir.Value:
        """Return the attention of whichever way has fewer scores."""
        tape = self.tape
        begins, lengths, longest = self._measured()
        wide = tape.op("Cast", [longest], {"to": ir.DataType.INT64})
        padded = tape.op("Mul", [tape.op("Mul", [wide, wide]), tape.op("Shape", [lengths])])
        fewer = tape.op("LessOrEqual", [padded, tape.op("Mul", [self._tokens, self._tokens])])
        branches = {}
        for name, emit in (
            ("then_branch", lambda inner: self._padded(inner, begins, lengths, longest)),
            ("else_branch", self.hiding),
        ):
            inner = Tape()
            outcome = emit(inner)
            # By themselves they would be named as those around them are.
            for i, value in enumerate(value for node in inner.nodes for value in node.outputs):
                value.name = f"{name}.{i}"
            branches[name] = ir.Graph(
                [], [outcome], nodes=inner.nodes, opset_imports={"": self._opset, _MS: 1}, name=name
            )
        return tape.op("If", [tape.op("Squeeze", [fewer])], branches)

    def padding(self) -> ir.Value:
        """Return the attention of texts that are padded to the longest of them."""
        return self._padded(self.tape, *self._measured())

    def hiding(self, tape: Tape) -> ir.Value:
        """Return the attention of all tokens, ``float[1, T, hidden]``, but for other texts'."""
        columns = tape.op("Unsqueeze", [self._number, ints(tape.op, 0)])
        same = tape.op("Equal", [tape.op("Unsqueeze", [self._number, ints(tape.op, 1)]), columns])
        return self._attended_hiding(tape, self.hidden_unless(tape, same))

    def hidden_unless(self, tape: Tape, same: ir.Value) -> ir.Value:
        """Return what hides some of all scores, ``float[1, 1, S, S]``.

        Args:
            tape: Where to.
            same: Those that it does not hide, ``bool[S, S]``.
        """
        seen, hidden = (
            tape.op("Constant", [], {"value": ir.tensor(np.asarray(value, FLOATS[self._dtype]))})
            for value in (0.0, _HIDDEN)
        )
        bias = tape.op("Where", [same, seen, hidden])
        return tape.op("Unsqueeze", [bias, ints(tape.op, 0, 1)])

    def _measured(self) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Return where texts begin, how long they are, each ``int32[N]``, and the longest's."""
        tape = self.tape
        begins = tape.op("Slice", [self._cu_seqlens, ints(tape.op, 0), ints(tape.op, -1)])
        ends = tape.op("Slice", [self._cu_seqlens, ints(tape.op, 1), ints(tape.op, 1 << 31)])
        lengths = tape.op("Sub", [ends, begins])
        return begins, lengths, tape.op("ReduceMax", [lengths], {"keepdims": 1})

    def _padded(
        self, tape: Tape, begins: ir.Value, lengths: ir.Value, longest: ir.Value
    ) -> ir.Value:
        """Return the attention of texts each in a row of its own, as :meth:`hiding` does.

        Behind the end of a text are any tokens: none of it sees them.
        """
        zero, one = (
            tape.op("Constant", [], {"value": ir.tensor(np.asarray(value, np.int32))})
            for value in (0, 1)
        )
        steps = tape.op("Range", [zero, tape.op("Squeeze", [longest]), one])
        there = tape.op("Add", [tape.op("Unsqueeze", [begins, ints(tape.op, 1)]), steps])
        tokens = tape.op("Cast", [self._tokens], {"to": ir.DataType.INT32})
        there = tape.op("Min", [there, tape.op("Sub", [tokens, one])])
        rows = tape.op("Gather", [tape.op("Squeeze", [self._qkv, ints(tape.op, 0)]), there])
        attended = self._attended_padded(tape, rows, lengths, longest)
        # Token t of text n, which begins at b, is in place n * longest + t - b.
        text = tape.op("Sub", [self._number, one])
        skipped = tape.op(
            "Sub", [tape.op("Mul", [text, longest]), tape.op("Gather", [begins, text])]
        )
        own = tape.op("Range", [zero, tape.op("Squeeze", [tokens]), one])
        flat = tape.op("Flatten", [attended], {"axis": 2})
        back = tape.op("Gather", [flat, tape.op("Add", [skipped, own])])
        return tape.op("Unsqueeze", [back, ints(tape.op, 0)])

    def _attended_hiding(self, tape: Tape, bias: ir.Value) -> ir.Value:
        """Return the attention of one row of all tokens, to whose scores ``bias`` is added.

        Args:
            tape: Where to.
            bias: ``float[1, 1, T, T]``.
        """
        return attended(tape, self._qkv, None, bias)

    def _attended_padded(
        self, tape: Tape, rows: ir.Value, lengths: ir.Value, longest: ir.Value
    ) -> ir.Value:
        """Return the attention of texts each in a row of its own, ``float[N, longest, hidden]``.

        Args:
            tape: Where to.
            rows: ``qkv`` of their tokens, ``float[N, longest, ...]``.
            lengths: How many of a row there are, ``int32[N]``.
            longest: The largest of them, ``int32[1]``.
        """
        del longest
        return attended(tape, rows, lengths, None)


def attended(
    tape: Tape,
    qkv: ir.Value,
    lengths: ir.Value | None,
    bias: ir.Value | None,
    how: Mapping[str, ir.Attr] = MappingProxyType({}),
) -> ir.Value:
    """Return the attention of rows of tokens: within ``lengths``, where scores have a ``bias``.

    The function has the attribute ``num_heads``; ``how`` is what else the operator is told.
    """
    q, k, v = split_evenly(tape, qkv)
    heads = ir.RefAttr("num_heads", "num_heads", ir.AttributeType.INT)
    inputs = [q, k, v, None, lengths, bias]
    return tape.op("MultiHeadAttention", inputs, {"num_heads": heads, **how}, domain=_MS)


def split_evenly(tape: Tape, qkv: ir.Value) -> Sequence[ir.Value]:
    """Return queries, keys and values that stand side by side, as many heads of each."""
    return tape.op_multi_out("Split", [qkv], {"axis": -1, "num_outputs": 3}, num_outputs=3)


def ints(emit: Emit, *values: int) -> ir.Value:
    """Return a constant of ``int64``."""
    return emit("Constant", [], {"value": ir.tensor(np.asarray(values, np.int64))})
