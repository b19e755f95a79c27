"""Sampling as graphs of standard operators, for devices whose logits are to stay where they are.

They draw what ``rbee_runtime.sampling`` draws, from the same random number: penalties and bias,
temperature, top-k, top-p and min-p in that order, exact over the whole vocabulary, candidates in
the order of their ids. The greedy graph only takes the largest.

    logits       float32[B, vocab]
    counts       float32[B, vocab]   how often each token was drawn, up to the one before the last
    seen         bool[B, vocab]      tokens of the prompt that the repetition penalty is to count
    bias         float32[B, vocab]   added to the logits; minus infinity where a token is barred
    previous     int64[B]            the last token drawn, to count from now on; -1 for none
    repetition   float32[B]          1 for none; frequency and presence, alike, 0 for none
    inverse      float32[B]          one over the temperature
    top_k        int64[B]            from 1 (which is greedy) to the vocabulary
    top_p        float64[B]
    min_p        float32[B]
    uniform      float64[B]          in [0, 1)
    token        int64[B]            the token drawn; -1 where a row has no largest logit
    new_counts   float32[B, vocab]   ``counts`` with ``previous``; may be the same memory

Running sums are made in two levels, of stretches and within them: the CUDA provider adds up every
element of a running sum from the start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

OPSET = 21
_STRETCH = 64
"""Elements of a stretch: near the square root of a vocabulary's size over a few, so that both
levels are short.
"""


def greedy_graph(vocab: int, producer_version: str) -> ir.Model:
    """Return the graph that takes the likeliest token of each row."""
    g = _Graph()
    logits = g.input("logits", ir.DataType.FLOAT, ["batch", vocab])
    largest, best = g.likeliest(logits)
    g.output("token", ir.DataType.INT64, g.if_sound(logits, largest, best))
    return g.model("greedy", producer_version)


def sampler_graph(vocab: int, producer_version: str) -> ir.Model:
    """Return the graph that draws a token for each row."""
    g = _Graph()
    logits = g.input("logits", ir.DataType.FLOAT, ["batch", vocab])
    values = _adjusted(g, logits, vocab)
    largest, best = g.likeliest(values)
    inverse = g.row_input("inverse", ir.DataType.FLOAT)
    weights = g("Exp", g("Mul", g("Sub", values, largest), inverse))
    padding = -vocab % _STRETCH
    pads = g.constant(np.asarray([0, 0, 0, padding], np.int64))
    weights = g("Pad", weights, pads, g.constant(np.float32(0)))
    top_k = g.row_input("top_k", ir.DataType.INT64)
    kept = _most_likely(g, weights, top_k, vocab + padding)
    kept = g("And", kept, g("GreaterOrEqual", weights, g.row_input("min_p", ir.DataType.FLOAT)))
    chosen = g("Mul", g.cast(weights, ir.DataType.DOUBLE), g.cast(kept, ir.DataType.DOUBLE))
    so_far, whole = g.running(chosen)
    drawn = g("Mul", g.row_input("uniform", ir.DataType.DOUBLE), whole)
    # Where rounding puts the draw at the very end, the last weight that counts has it.
    before = g.count(g("LessOrEqual", so_far, drawn))
    last = g.count(g("Less", so_far, whole))
    at = g.cast(g("Min", before, last), ir.DataType.INT64)
    token = g("Where", g("Equal", top_k, g.constant(np.int64(1))), best, at)
    g.output("token", ir.DataType.INT64, g.if_sound(values, largest, token))
    return g.model("sampler", producer_version)


def _adjusted(g: _Graph, logits: ir.Value, vocab: int) -> ir.Value:
    """Return the logits with penalties and bias."""
    shape: tuple[int | str, ...] = ("batch", vocab)
    counts = g.input("counts", ir.DataType.FLOAT, shape)
    seen = g.input("seen", ir.DataType.BOOL, shape)
    bias = g.input("bias", ir.DataType.FLOAT, shape)
    first, size, step = (g.constant(np.int64(number)) for number in (0, vocab, 1))
    ids = g("Range", first, size, step)
    is_previous = g("Equal", ids, g.row_input("previous", ir.DataType.INT64))
    counts = g("Add", counts, g.cast(is_previous, ir.DataType.FLOAT))
    g.output("new_counts", ir.DataType.FLOAT, counts, shape)
    zero = g.constant(np.float32(0))
    drawn = g("Greater", counts, zero)
    penalty = g.row_input("repetition", ir.DataType.FLOAT)
    is_positive = g("Greater", logits, zero)
    penalised = g("Where", is_positive, g("Div", logits, penalty), g("Mul", logits, penalty))
    values = g("Where", g("Or", seen, drawn), penalised, logits)
    values = g("Sub", values, g("Mul", g.row_input("frequency", ir.DataType.FLOAT), counts))
    presence = g.row_input("presence", ir.DataType.FLOAT)
    values = g("Sub", values, g("Mul", presence, g.cast(drawn, ir.DataType.FLOAT)))
    return g("Add", values, bias)


def _most_likely(g: _Graph, weights: ir.Value, top_k: ir.Value, width: int) -> ir.Value:
    """Return which weights top-k, then top-p leave, ``bool[B, width]``; of equals the first ids.

    Sorted, the weights tell how many are left and which is the least of them; which of them those
    are is then a matter of comparing, and of counting the equals of the least in order.
    """
    one = g.constant(np.int64(1))
    size = g.constant(np.asarray([width], np.int64))
    ordered, _ = g.several("TopK", [weights, size], {"axis": -1, "largest": 1, "sorted": 1}, 2)
    so_far, _ = g.running(g.cast(ordered, ir.DataType.DOUBLE))
    mass = g("GatherElements", so_far, g("Sub", top_k, one), axis=1)
    reached = g("Mul", mass, g.row_input("top_p", ir.DataType.DOUBLE))
    short = g.count(g("Less", so_far, reached))
    nucleus = g("Add", g.cast(short, ir.DataType.INT64), one)
    count = g("Min", top_k, nucleus)
    least = g("GatherElements", ordered, g("Sub", count, one), axis=1)
    above, equal = g("Greater", weights, least), g("Equal", weights, least)
    ties = g("Sub", g.cast(count, ir.DataType.FLOAT), g.count(above))
    rank, _ = g.running(g.cast(equal, ir.DataType.FLOAT))
    return g("Or", above, g("And", equal, g("LessOrEqual", rank, ties)))


class _Graph:
    """A graph under construction; calling it emits a node of one output."""

    def __init__(self) -> None:
        self._tape = Tape()
        self._inputs: list[ir.Value] = []
        self._outputs: list[ir.Value] = []
        self._constants: list[ir.Value] = []

    def __call__(self, kind: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        return self._tape.op(kind, inputs, attributes)

    def several(
        self, kind: str, inputs: Sequence[ir.Value], attributes: Mapping[str, int], outputs: int
    ) -> Sequence[ir.Value]:
        return self._tape.op_multi_out(kind, inputs, attributes, num_outputs=outputs)

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
        self._inputs.append(value)
        return value

    def row_input(self, name: str, dtype: ir.DataType) -> ir.Value:
        """Return an input with a number a row, as a column."""
        last = self.constant(np.asarray([-1], np.int64))
        return self("Unsqueeze", self.input(name, dtype, ["batch"]), last)

    def output(
        self,
        name: str,
        dtype: ir.DataType,
        value: ir.Value,
        shape: Sequence[int | str] = ("batch",),
    ) -> None:
        value.name = name
        value.type = ir.TensorType(dtype)
        value.shape = ir.Shape(shape)
        self._outputs.append(value)

    def constant(self, values: Any) -> ir.Value:
        array = np.asarray(values)
        name = f"const.{len(self._constants)}"
        value = ir.Value(
            name=name,
            type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
            shape=ir.Shape(array.shape),
        )
        value.const_value = ir.tensor(array, name=name)
        self._constants.append(value)
        return value

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        return self("Cast", value, to=int(dtype))

    def count(self, condition: ir.Value) -> ir.Value:
        """Return how many of a row hold, ``float32[B, 1]``: exact up to 2^24."""
        last = self.constant(np.asarray([-1], np.int64))
        return self("ReduceSum", self.cast(condition, ir.DataType.FLOAT), last, keepdims=1)

    def likeliest(self, values: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Return the largest of each row, and where it first is, each ``[B, 1]``."""
        one = self.constant(np.asarray([1], np.int64))
        attributes = {"axis": -1, "largest": 1, "sorted": 1}
        largest, at = self.several("TopK", [values, one], attributes, 2)
        return largest, at

    def if_sound(self, values: ir.Value, largest: ir.Value, token: ir.Value) -> ir.Value:
        """Return tokens as ``int64[B]``, -1 where the largest is infinite or anything no number."""
        holes = self.count(self("IsNaN", values))
        has_holes = self("Greater", holes, self.constant(np.float32(0)))
        unsound = self("Or", has_holes, self("IsInf", largest))
        chosen = self("Where", unsound, self.constant(np.int64(-1)), token)
        return self("Squeeze", chosen, self.constant(np.asarray([-1], np.int64)))

    def running(self, values: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Return the running sums of each row, and the whole, ``[B, 1]``."""
        axis = self.constant(np.int64(-1))
        stretches = self("Reshape", values, self.constant(np.asarray([0, -1, _STRETCH], np.int64)))
        within = self("CumSum", stretches, axis)
        last = self.constant(np.asarray([_STRETCH - 1], np.int64))
        sums = self("Gather", within, last, axis=2)  # [B, S, 1]
        flat = self("Squeeze", sums, self.constant(np.asarray([2], np.int64)))
        starts = self("CumSum", flat, axis, exclusive=1)
        column = self("Unsqueeze", starts, self.constant(np.asarray([2], np.int64)))
        so_far = self("Add", within, column)
        flat_sums = self("Reshape", so_far, self.constant(np.asarray([0, -1], np.int64)))
        whole = self("Gather", flat_sums, self.constant(np.asarray([-1], np.int64)), axis=1)
        return flat_sums, whole

    def model(self, name: str, producer_version: str) -> ir.Model:
        graph = ir.Graph(
            self._inputs,
            self._outputs,
            nodes=self._tape.nodes,
            initializers=self._constants,
            opset_imports={"": OPSET},
            name=name,
        )
        return ir.Model(
            graph, ir_version=10, producer_name="rbee-export", producer_version=producer_version
        )
