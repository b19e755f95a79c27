"""Texts that stand one after another in a graph, and the vectors that each of them ends as."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from rbee_export.checkpoint.pooling import Output, PoolingKind
from rbee_export.dialect.graph import GraphWriter
from rbee_export.dialect.packed_attention import text_numbers

_SHORTEST = 1e-12
"""Length below which a vector is not made longer, as in PyTorch's ``normalize``."""


class PackedTexts:
    """N texts of T tokens together, special tokens included.

    Attributes:
        ids: The tokens: the input ``input_ids``, ``int64[T]``.
        begins: Where each text begins, and T: the input ``cu_seqlens``, ``int32[N + 1]``.
    """

    def __init__(self, graph: GraphWriter) -> None:
        self._graph = graph
        self.ids = graph.input("input_ids", ir.DataType.INT64, ["tokens"])
        self.begins = graph.input("cu_seqlens", ir.DataType.INT32, ["boundaries"])
        self._types: ir.Value | None = None
        self._numbers: ir.Value | None = None

    def types(self) -> ir.Value:
        """Return the type of each token: the input ``token_types``, ``int32[T]``."""
        if self._types is None:
            self._types = self._graph.input("token_types", ir.DataType.INT32, ["tokens"])
        return self._types

    def numbers(self) -> ir.Value:
        """Return which text each token belongs to, ``int32[T]``, counted from 0."""
        if self._numbers is None:
            tokens = self._graph.op("Shape", [self.ids])
            counted = text_numbers(self._graph.op, tokens, self.begins)
            self._numbers = self._graph.op("Sub", [counted, self.index(1)])
        return self._numbers

    def pooled(self, x: ir.Value, kind: PoolingKind) -> ir.Value:
        """Make one vector of those of a text's tokens.

        Args:
            x: Of each token, ``float[T, width]``.
            kind: Which of them count.

        Returns:
            ``float32[N, width]``.
        """
        graph = self._graph
        begins = graph.op("Slice", [self.begins, *self._range(0, -1)])
        ends = graph.op("Slice", [self.begins, *self._range(1, 1 << 31)])
        if kind != "mean":
            one = self.index(1)
            rows = begins if kind == "cls" else graph.op("Sub", [ends, one])
            return self._float32(graph.op("Gather", [x, rows]))
        last, first = graph.ints("[-1]", [-1]), graph.ints("[0]", [0])
        texts = graph.op("Squeeze", [graph.op("Shape", [begins])])
        texts = graph.op("Cast", [texts], {"to": ir.DataType.INT32})
        numbers = graph.op("Range", [self.index(0), texts, self.index(1)])
        numbers = graph.op("Unsqueeze", [numbers, last])
        own = graph.op("Equal", [numbers, graph.op("Unsqueeze", [self.numbers(), first])])
        sums = graph.op("MatMul", [self._float32(own), self._float32(x)])
        lengths = graph.op("Unsqueeze", [graph.op("Sub", [ends, begins]), last])
        return graph.op("Div", [sums, self._float32(lengths)])

    def normalized(self, x: ir.Value) -> ir.Value:
        """Divide each vector, of ``float32[N, width]``, by its length."""
        length = self._graph.op("ReduceL2", [x, self._graph.ints("[-1]", [-1])], {"keepdims": 1})
        shortest = ir.tensor(np.asarray(_SHORTEST, np.float32))
        shortest_value = self._graph.op("Constant", [], {"value": shortest})
        return self._graph.op("Div", [x, self._graph.op("Max", [length, shortest_value])])

    def output(self, x: ir.Value, name: Output, width: int) -> None:
        """Make these vectors, one a text, an output."""
        self._graph.output(x, name, ir.DataType.FLOAT, ["texts", width])

    def index(self, value: int) -> ir.Value:
        """Return a scalar of ``int32``."""
        return self._graph.op("Constant", [], {"value": ir.tensor(np.asarray(value, np.int32))})

    def _float32(self, x: ir.Value) -> ir.Value:
        return self._graph.op("Cast", [x], {"to": ir.DataType.FLOAT})

    def _range(self, start: int, end: int) -> tuple[ir.Value, ir.Value]:
        return self._graph.ints(f"[{start}]", [start]), self._graph.ints(f"[{end}]", [end])
