"""The ``ort`` dialect: ONNX Runtime's fused operators, for its CPU and CUDA providers.

The graph's inputs and outputs, with B rows of S tokens each, and ``float`` the type it computes in:

    input_ids               int64[B, S]     S > 1 (prefill) only with B = 1
    seqlens_k               int32[B]        positions in the cache after this step, less one
    total_sequence_length   int32           the largest of those positions
    position_ids            int64[B, S]     rows of the rotary tables; windows or long rope only
    past_key.{i}            float[B, kv_heads, capacity, head_dim]; past_value.{i} alike
    logits                  float32[B, vocab], of each row's last token
    present_key.{i}         the same memory as past_key.{i}; present_value.{i} alike

Layers with a window have ``window_seqlens_k`` and ``window_total_sequence_length`` instead, and a
``window_capacity``: their cache may leave out what no window reaches any more.

With weights in blocks, activations keep their rows, ``float[B, S, width]``, by which kernels know
a prompt. Otherwise they are flat, ``float[B * S, width]``, for a product is then a ``Gemm``, which
takes matrices only; there is a ``Reshape`` on either side of the attention.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from rbee_export.blocks import BlockMatrix
from rbee_export.checkpoint import DecoderConfig
from rbee_export.checkpoint.config import Activation, Experts
from rbee_export.dialect.functions import Gate
from rbee_export.dialect.graph import GraphWriter
from rbee_export.dialect.products import Products
from rbee_export.weights import Matrix, Weights
from rbee_export.weights_file import WeightsFile

OPSET = 21
_MS = "com.microsoft"
KEPT_IN_ROWS = ("int8", "int4", "gguf")
"""Precisions whose activations keep their rows."""


class OrtDialect:
    """A :class:`~rbee_export.decoder.Dialect` of ONNX Runtime's operators."""

    def __init__(
        self, config: DecoderConfig, weights: Weights, file: WeightsFile, dtype: ir.DataType
    ) -> None:
        self._c = config
        self._weights = weights
        self._graph = GraphWriter(file, dtype)
        self._row_shapes: dict[int, ir.Value] = {}
        self._flat = weights.precision not in KEPT_IN_ROWS
        self._tied: Matrix | None = None
        self._products = Products(self._graph, weights, OPSET, flat=self._flat)

        self._ids = self._graph.input("input_ids", ir.DataType.INT64, ["batch", "sequence"])
        self._filled: dict[str, list[ir.Value]] = {}
        self._positions: ir.Value | None = None
        if config.windowed_layers or config.long_rope_from is not None:
            shape = ["batch", "sequence"]
            self._positions = self._graph.input("position_ids", ir.DataType.INT64, shape)

    def model(self, producer_version: str) -> ir.Model:
        """Return the finished model; its weights stay in the weights file."""
        return self._graph.model(OPSET, {_MS: 1}, producer_version, ir_version=10)

    def embedding(self, name: str, rows: int) -> ir.Value:
        """See :class:`~rbee_export.decoder.Dialect`."""
        table = self._weights.matrix(name, rows, self._c.hidden)
        if self._c.tied_embedding:
            self._tied = table
        ids = self._ids
        if self._flat:
            ids = self._op("Reshape", [ids, self._graph.ints("flat", [-1])])
        if not isinstance(table, BlockMatrix):
            return self._op("Gather", [self._graph.floats(name, table), ids])
        return self._products.looked_up(name, table, ids)

    def norm(self, x: ir.Value, name: str) -> ir.Value:
        """See :class:`~rbee_export.decoder.Dialect`."""
        kind = "LayerNormalization" if self._c.norm == "layer" else "SimplifiedLayerNormalization"
        attributes = {"epsilon": self._c.norm_epsilon, "axis": -1}
        return self._op(kind, [x, *self._norm_weights(name)], attributes)

    def add(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """See :class:`~rbee_export.decoder.Dialect`."""
        return self._op("Add", [a, b])

    def add_norm(self, residual: ir.Value, x: ir.Value, name: str) -> tuple[ir.Value, ir.Value]:
        """See :class:`~rbee_export.decoder.Dialect`."""
        simplified = "" if self._c.norm == "layer" else "Simplified"
        normed, _, _, total = self._graph.op_multi_out(
            f"Skip{simplified}LayerNormalization",
            [x, residual, *self._norm_weights(name)],
            {"epsilon": self._c.norm_epsilon},
            outputs=4,
            domain=_MS,
        )
        return total, normed

    def scale(self, x: ir.Value, factor: float) -> ir.Value:
        """See :class:`~rbee_export.decoder.Dialect`."""
        return self._op("Mul", [x, self._graph.number(factor)])

    def linear(self, x: ir.Value, columns: int, rows: Mapping[str, int], *, bias: bool) -> ir.Value:
        """See :class:`~rbee_export.decoder.Dialect`."""
        return self._products.linear(x, columns, rows, bias=bias)

    def attention(self, qkv: ir.Value, layer: int, norms: tuple[str, str] | None) -> ir.Value:
        """See :class:`~rbee_export.decoder.Dialect`."""
        c, how = self._c, self._c.attention[layer]
        qkv = self._in_rows(qkv, c.q_width + 2 * c.kv_width)
        attributes: dict[str, int | float] = {"num_heads": c.heads, "kv_num_heads": c.kv_heads}
        if how.window is not None:
            attributes["local_window_size"] = how.window
        if c.attention_scale is not None:
            attributes["scale"] = c.attention_scale
        if c.attention_cap is not None:
            attributes["softcap"] = c.attention_cap
        kind = "window_" if layer in c.windowed_layers else ""
        cache: list[int | str] = ["batch", c.kv_heads, f"{kind}capacity", c.head_dim]
        past = [
            self._graph.input(f"past_{kv}.{layer}", self._graph.dtype, cache)
            for kv in ("key", "value")
        ]
        inputs: list[ir.Value | None] = [
            *(self._normed(qkv, norms) if norms else (qkv, None, None)),
            *past,
            *self._filled_positions(kind),
        ]
        if how.rope is not None:
            attributes["do_rotary"] = 1
            inputs += self._graph.rope(how.rope, c.context_length)
            if self._positions is not None:
                inputs.append(self._positions)
        attended, *present = self._graph.op_multi_out(
            "GroupQueryAttention", inputs, attributes, outputs=3, domain=_MS
        )
        for kv, value in zip(("key", "value"), present, strict=True):
            self._graph.output(value, f"present_{kv}.{layer}", self._graph.dtype, cache)
        if not self._flat:
            return attended
        return self._op("Reshape", [attended, self._graph.ints("wide", [-1, c.q_width])])

    def activation(self, x: ir.Value, kind: Activation) -> ir.Value:
        """See :class:`~rbee_export.decoder.Dialect`."""
        if kind == "gelu_tanh":
            return self._op("Gelu", [x], {"approximate": "tanh"})
        # QuickGelu is x * sigmoid(alpha * x): at alpha 1, SiLU in one operator.
        return self._op("QuickGelu", [x], {"alpha": 1.0}, domain=_MS)

    def gated(
        self,
        x: ir.Value,
        columns: int,
        rows: Mapping[str, int],
        kind: Activation,
        *,
        bias: bool,
    ) -> ir.Value:
        """See :class:`~rbee_export.decoder.Dialect`."""
        gate: Gate = "GatedGelu" if kind == "gelu_tanh" else "GatedSilu"
        return self._products.gated(x, columns, rows, gate, bias=bias)

    def experts(self, x: ir.Value, at: str, columns: int, experts: Experts) -> ir.Value:
        """See :class:`~rbee_export.decoder.Dialect`."""
        return self._products.experts(x, at, columns, experts)

    def let_through(self, y: ir.Value, x: ir.Value, name: str, columns: int) -> ir.Value:
        """See :class:`~rbee_export.decoder.Dialect`."""
        share = self._op("Sigmoid", [self._products.of_numbers(x, name, 1, columns)])
        return self._op("Mul", [y, share])

    def last_position(self, x: ir.Value) -> ir.Value:
        """See :class:`~rbee_export.decoder.Dialect`."""
        rows = self._in_rows(x, self._c.hidden)
        return self._op("Gather", [rows, self._graph.ints("-1", -1)], {"axis": 1})

    def logits(
        self, x: ir.Value, name: str, rows: int, *, tied: bool, bias: bool, cap: float | None
    ) -> None:
        """See :class:`~rbee_export.decoder.Dialect`."""
        head = self._tied if tied else self._weights.matrix(name, rows, self._c.hidden)
        assert head is not None
        y = self._products.product(x, head, {name: rows}, bias=bias)
        if cap is not None:
            limit = self._graph.number(cap)
            y = self._op("Mul", [self._op("Tanh", [self._op("Div", [y, limit])]), limit])
        if self._graph.dtype != ir.DataType.FLOAT:
            y = self._op("Cast", [y], {"to": ir.DataType.FLOAT})
        self._graph.output(y, "logits", ir.DataType.FLOAT, ["batch", rows])

    def _filled_positions(self, kind: str) -> list[ir.Value]:
        """Return the inputs that say how full the cache of layers of a kind is."""
        if kind not in self._filled:
            self._filled[kind] = [
                self._graph.input(f"{kind}seqlens_k", ir.DataType.INT32, ["batch"]),
                self._graph.input(f"{kind}total_sequence_length", ir.DataType.INT32, []),
            ]
        return self._filled[kind]

    def _normed(self, qkv: ir.Value, norms: tuple[str, str]) -> list[ir.Value]:
        """Return queries and keys normalised, and values, each ``float[B, S, width]``."""
        c = self._c
        widths = self._graph.ints("qkv", [c.q_width, c.kv_width, c.kv_width])
        q, k, v = self._graph.op_multi_out("Split", [qkv, widths], {"axis": -1}, 3)
        attributes = {"epsilon": c.norm_epsilon, "axis": -1}
        normed = []
        for x, name, heads in ((q, norms[0], c.heads), (k, norms[1], c.kv_heads)):
            whole = c.qk_norm == "whole"
            size = heads * c.head_dim if whole else c.head_dim
            weight = self._graph.floats(name, self._weights.vector(name, size))
            if whole:
                normed.append(self._op("SimplifiedLayerNormalization", [x, weight], attributes))
                continue
            shape = self._graph.ints(f"heads.{heads}", [0, 0, heads, c.head_dim])
            each = self._op("Reshape", [x, shape])
            each = self._op("SimplifiedLayerNormalization", [each, weight], attributes)
            normed.append(self._op("Reshape", [each, self._graph.ints("joined", [0, 0, -1])]))
        return [*normed, v]

    def _norm_weights(self, name: str) -> list[ir.Value]:
        names = [name, f"{name}_bias"] if self._c.norm == "layer" else [name]
        return [self._graph.floats(n, self._weights.vector(n, self._c.hidden)) for n in names]

    def _in_rows(self, x: ir.Value, width: int) -> ir.Value:
        """Return activations as ``[B, S, width]``."""
        if not self._flat:
            return x
        if width not in self._row_shapes:
            shape = self._op("Shape", [self._ids])
            parts = [shape, self._graph.ints(f"width.{width}", [width])]
            self._row_shapes[width] = self._op("Concat", parts, {"axis": 0})
        return self._op("Reshape", [x, self._row_shapes[width]])

    def _op(
        self,
        kind: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, int | float | str] | None = None,
        domain: str = "",
    ) -> ir.Value:
        return self._graph.op(kind, inputs, attributes, domain)
