"""Where the tokens of a step stand, and which positions of the cache each of them sees."""

from __future__ import annotations

import onnx_ir as ir

from rbee_export.dialect.graph import GraphWriter


class Positions:
    """The positions of a step's tokens, in a graph.

    Attributes:
        own: ``int64[B, S]``, where in the cache they go.
    """

    def __init__(self, graph: GraphWriter, first: ir.Value, ids: ir.Value) -> None:
        self._graph = graph
        self._masks: dict[int | None, ir.Value] = {}
        start = graph.op("Unsqueeze", [first, graph.ints("[-1]", [-1])])
        self.own = graph.op("Add", [start, self._count(ids, 1)])

    def mask(self, window: int | None, cache: ir.Value) -> ir.Value:
        """Return ``bool[B, 1, S, capacity]``: which positions of the cache a token sees.

        Args:
            window: Latest positions it sees, its own included; ``None`` for all up to its own.
            cache: Any cache, ``[B, kv_heads, capacity, head_dim]``.
        """
        if window not in self._masks:
            graph = self._graph
            own = graph.op("Unsqueeze", [self.own, graph.ints("[1, 3]", [1, 3])])
            cached = self._count(cache, 2)
            seen = graph.op("LessOrEqual", [cached, own])
            if window is not None:
                hidden = graph.op("Sub", [own, graph.ints(f"window.{window}", window)])
                seen = graph.op("And", [seen, graph.op("Greater", [cached, hidden])])
            self._masks[window] = seen
        return self._masks[window]

    def _count(self, sized: ir.Value, axis: int) -> ir.Value:
        """Return ``0, 1, ...``, as many as ``sized`` has along ``axis``."""
        graph = self._graph
        shape = graph.op("Shape", [sized], {"start": axis, "end": axis + 1})
        size = graph.op("Squeeze", [shape, graph.ints("[0]", [0])])
        return graph.op("Range", [graph.ints("0", 0), size, graph.ints("1", 1)])
