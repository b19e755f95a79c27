"""The ``standard`` dialect: operators of ONNX opset 24 alone, in the forms that TensorRT builds.

The graph's inputs and outputs, with B rows of S tokens each, and ``float`` the type it computes in:

    input_ids               int64[B, S]
    write_indices           int64[B]        positions in the cache before this step
    nonpad_kv_seqlen        int64[B]        and after it: ``write_indices + S``
    position_ids            int64[B, S]     rows of the rotary tables; with long rope only
    past_key.{i}            float[B, kv_heads, capacity, head_dim]; past_value.{i} alike
    logits                  float32[B, vocab], of each row's last token
    present_key.{i}         the same memory as past_key.{i}; present_value.{i} alike

Which positions a token sees is said by a mask in the graph, not by ``is_causal``: TensorRT counts
the latter from the first position of the cache, whatever ``nonpad_kv_seqlen`` says, so that a
token of a later step would see next to nothing. The mask also says the window.

TensorRT's attention has no soft cap. Layers that have one are written out in products and a
softmax, the scores in float32.

Quantised matrices are integers of 4 or 8 bits, with positive scales and without zero point, under
``DequantizeLinear``: TensorRT takes no others. The embedding is never quantised: a row is looked
up, not the table multiplied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from rbee_export.blocks import BlockMatrix
from rbee_export.checkpoint import DecoderConfig
from rbee_export.checkpoint.config import Activation, DeltaNet, Experts, Mamba2, ShortConvolution
from rbee_export.checkpoint.rope import Rope
from rbee_export.checkpoint.temperature import Temperature
from rbee_export.dialect.graph import GraphWriter
from rbee_export.dialect.positions import Positions
from rbee_export.weights import Matrix, Weights
from rbee_export.weights_file import WeightsFile

OPSET = 24
_UNSEEN = -1e9
"""A score no softmax gives weight to."""

_LEAST_SCALE = 2.0**-24
"""The smallest number of float16."""


class StandardDialect:
    """A :class:`~rbee_export.decoder.Dialect` of standard operators.

    Activations are ``float[B, S, width]``, and ``float[B, 1, width]`` from the last position on.
    """

    def __init__(
        self, config: DecoderConfig, weights: Weights, file: WeightsFile, dtype: ir.DataType
    ) -> None:
        self._c = config
        self._weights = weights
        self._graph = GraphWriter(file, dtype)
        self._table: ir.Value | None = None
        self._factors: ir.Value | None = None

        graph = self._graph
        self._ids = graph.input("input_ids", ir.DataType.INT64, ["batch", "sequence"])
        self._write = graph.input("write_indices", ir.DataType.INT64, ["batch"])
        self._filled = graph.input("nonpad_kv_seqlen", ir.DataType.INT64, ["batch"])
        self._positions = Positions(graph, self._write, self._ids)
        self._rows = self._positions.own
        if config.long_rope_from is not None:
            shape = ["batch", "sequence"]
            self._rows = graph.input("position_ids", ir.DataType.INT64, shape)

    def model(self, producer_version: str) -> ir.Model:
        """Return the finished model; its weights stay in the weights file."""
        model = self._graph.model(OPSET, {}, producer_version, ir_version=11)
        # What an engine builder needs to know besides the graph.
        model.metadata_props["family"] = self._c.family
        model.metadata_props["context_length"] = str(self._c.context_length)
        return model

    def embedding(self, name: str, rows: int) -> ir.Value:
        """See :class:`~rbee_export.decoder.Dialect`."""
        table = self._weights.table(name, rows, self._c.hidden, str(self._graph.dtype.numpy()))
        self._table = self._graph.floats(name, table)
        return self._op("Gather", [self._table, self._ids])

    def norm(self, x: ir.Value, name: str) -> ir.Value:
        """See :class:`~rbee_export.decoder.Dialect`."""
        weight = self._vector(name, self._c.hidden)
        attributes = {"axis": -1, "epsilon": self._c.norm_epsilon}
        if self._c.norm == "rms":
            return self._op("RMSNormalization", [x, weight], attributes)
        bias = [self._vector(f"{name}_bias", self._c.hidden)] if self._c.norm_bias else []
        return self._op("LayerNormalization", [x, weight, *bias], attributes)

    def add(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """See :class:`~rbee_export.decoder.Dialect`."""
        return self._op("Add", [a, b])

    def add_norm(self, residual: ir.Value, x: ir.Value, name: str) -> tuple[ir.Value, ir.Value]:
        """See :class:`~rbee_export.decoder.Dialect`."""
        total = self.add(residual, x)
        return total, self.norm(total, name)

    def scale(self, x: ir.Value, factor: float) -> ir.Value:
        """See :class:`~rbee_export.decoder.Dialect`."""
        return self._op("Mul", [x, self._graph.number(factor)])

    def linear(self, x: ir.Value, columns: int, rows: Mapping[str, int], *, bias: bool) -> ir.Value:
        """See :class:`~rbee_export.decoder.Dialect`."""
        stacks = self._weights.stacked(rows, columns)
        parts = [self._product(x, matrix, own, bias=bias) for own, matrix in stacks]
        return parts[0] if len(parts) == 1 else self._op("Concat", parts, {"axis": -1})

    def attention(self, qkv: ir.Value, layer: int, norms: tuple[str, str] | None) -> ir.Value:
        """See :class:`~rbee_export.decoder.Dialect`."""
        c, graph, how = self._c, self._graph, self._c.attention[layer]
        widths = graph.ints("qkv", [c.q_width, c.kv_width, c.kv_width])
        q, k, v = graph.op_multi_out("Split", [qkv, widths], {"axis": -1}, 3)
        if norms is not None and c.qk_norm == "whole":
            q, k = self._qk_norm(q, norms[0], c.q_width), self._qk_norm(k, norms[1], c.kv_width)
        q, k, v = self._heads(q, c.heads), self._heads(k, c.kv_heads), self._heads(v, c.kv_heads)
        if how.rope is not None and c.qk_norm_last:
            q, k = self._rotate(q, how.rope), self._rotate(k, how.rope)
        if norms is not None and c.qk_norm == "head":
            q, k = self._qk_norm(q, norms[0], c.head_dim), self._qk_norm(k, norms[1], c.head_dim)
        if how.rope is not None and not c.qk_norm_last:
            q, k = self._rotate(q, how.rope), self._rotate(k, how.rope)
        if c.temperature is not None:
            q = self._op("Mul", [q, self._query_factors(c.temperature)])

        shape: list[int | str] = ["batch", c.kv_heads, "capacity", c.head_dim]
        present = []
        for kind, new in (("key", k), ("value", v)):
            past = graph.input(f"past_{kind}.{layer}", graph.dtype, shape)
            present.append(self._op("TensorScatter", [past, new, self._write], {"axis": 2}))
            graph.output(present[-1], f"present_{kind}.{layer}", graph.dtype, shape)
        mask = self._positions.mask(how.window, present[0])
        scale = c.head_dim**-0.5 if c.attention_scale is None else c.attention_scale
        if c.attention_cap is None:
            inputs = [q, *present, mask, None, None, self._filled]
            attended = self._op("Attention", inputs, {"scale": scale})
            _name(attended, f"layers.{layer}.attention")
        else:
            attended = self._capped_attention(q, present, mask, scale, c.attention_cap)
        return self._op("Reshape", [self._swapped(attended), graph.ints("joined", [0, 0, -1])])

    def activation(self, x: ir.Value, kind: Activation) -> ir.Value:
        """See :class:`~rbee_export.decoder.Dialect`."""
        if kind == "gelu_tanh":
            return self._op("Gelu", [x], {"approximate": "tanh"})
        if kind == "relu2":
            positive = self._op("Relu", [x])
            return self._op("Mul", [positive, positive])
        return self._op("Mul", [x, self._op("Sigmoid", [x])])

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
        gate_up = self.linear(x, columns, rows, bias=bias)
        attributes = {"axis": -1, "num_outputs": 2}
        gate, up = self._graph.op_multi_out("Split", [gate_up], attributes, 2)
        return self._op("Mul", [self.activation(gate, kind), up])

    def delta_net(self, qkvz: ir.Value, x: ir.Value, layer: int, net: DeltaNet) -> ir.Value:
        """Refuse: :class:`~rbee_export.options.Options` does so before."""
        raise NotImplementedError(f"layers.{layer}: a DeltaNet in standard operators")

    def short_convolution(self, bcx: ir.Value, layer: int, net: ShortConvolution) -> ir.Value:
        """Refuse as well."""
        raise NotImplementedError(f"layers.{layer}: a convolution in standard operators")

    def mamba(self, zxbc: ir.Value, x: ir.Value, layer: int, net: Mamba2) -> ir.Value:
        """Refuse as well."""
        raise NotImplementedError(f"layers.{layer}: a state space in standard operators")

    def open_gate(self, y: ir.Value, gate: ir.Value) -> ir.Value:
        """Refuse as well."""
        raise NotImplementedError("the gate of an attention in standard operators")

    def experts(self, x: ir.Value, at: str, columns: int, experts: Experts) -> ir.Value:
        """Refuse: :class:`~rbee_export.options.Options` does so before."""
        raise NotImplementedError(f"{at}: experts in standard operators")

    def let_through(self, y: ir.Value, x: ir.Value, name: str, columns: int) -> ir.Value:
        """Refuse as well."""
        raise NotImplementedError(f"{name}: experts in standard operators")

    def last_position(self, x: ir.Value) -> ir.Value:
        """See :class:`~rbee_export.decoder.Dialect`."""
        return self._op("Gather", [x, self._graph.ints("[-1]", [-1])], {"axis": 1})

    def logits(
        self, x: ir.Value, name: str, rows: int, *, tied: bool, bias: bool, cap: float | None
    ) -> None:
        """See :class:`~rbee_export.decoder.Dialect`."""
        if tied:
            assert self._table is not None
            y = self._times(x, self._table)
        else:
            head = self._weights.matrix(name, rows, self._c.hidden)
            y = self._product(x, head, {name: rows}, bias=bias)
        y = self._wide(self._op("Squeeze", [y, self._graph.ints("[1]", [1])]))
        if cap is not None:
            y = self._capped(y, cap)
        self._graph.output(y, "logits", ir.DataType.FLOAT, ["batch", rows])

    def _product(
        self, x: ir.Value, matrix: Matrix, rows: Mapping[str, int], *, bias: bool
    ) -> ir.Value:
        """Multiply activations by a matrix of ``[N, K]``."""
        name = "+".join(rows)
        if isinstance(matrix, BlockMatrix):
            matrix = matrix.with_positive_scales(_LEAST_SCALE)
            y = self._times(x, self._dequantized(name, matrix))
            if matrix.offsets is not None:
                cut = self._graph.ints(f"blocks.{matrix.block}", [0, 0, -1, matrix.block])
                sums = self._op(
                    "ReduceSum",
                    [self._op("Reshape", [x, cut]), self._graph.ints("[-1]", [-1])],
                    {"keepdims": 0},
                )
                offsets = self._graph.floats(f"{name}.offsets", matrix.offsets)
                y = self.add(y, self._times(sums, offsets))
        else:
            y = self._times(x, self._graph.floats(name, matrix))
        if not bias:
            return y
        return self.add(y, self._graph.floats(f"{name}_bias", self._weights.bias(rows)))

    def _dequantized(self, name: str, matrix: BlockMatrix) -> ir.Value:
        """Return ``float[N, K]`` in the graph, from signed integers in the weights file."""
        # The middle of the unsigned range becomes zero: the highest bit of each element flips.
        if matrix.bits == 8:
            signed = (matrix.packed ^ np.uint8(0x80)).view(np.int8)
            elements = self._graph.stored(f"{name}.packed", signed, matrix.shape)
        else:
            pairs = matrix.packed ^ np.uint8(0x88)
            elements = self._graph.stored(f"{name}.packed", pairs, matrix.shape, ir.DataType.INT4)
        attributes: dict[str, int] = {"axis": 1, "block_size": matrix.block}
        if matrix.bits == 8 and self._graph.dtype == ir.DataType.BFLOAT16:
            # Eight bits of a scale would add as much error as eight bits of a weight. At four bits
            # they do not, and TensorRT wants the scales in the type it computes in.
            scales = self._graph.stored(f"{name}.scales", matrix.scales)
            attributes["output_dtype"] = self._graph.dtype
        else:
            scales = self._graph.floats(f"{name}.scales", matrix.scales)
        return self._op("DequantizeLinear", [elements, scales], attributes)

    def _times(self, x: ir.Value, matrix: ir.Value) -> ir.Value:
        """Multiply ``float[..., K]`` by ``float[N, K]``."""
        return self._op("MatMul", [x, self._transposed(matrix, [1, 0])])

    def _capped_attention(
        self, q: ir.Value, cache: Sequence[ir.Value], mask: ir.Value, scale: float, cap: float
    ) -> ir.Value:
        """Attend with soft-capped scores: ``float[B, heads, S, head_dim]`` in and out."""
        c, ints = self._c, self._graph.ints
        # Query heads that share a key head stand below each other, as more rows of one product.
        shared = ints("shared", [0, c.kv_heads, -1, c.head_dim])
        queries = self._op("Reshape", [self.scale(q, scale), shared])
        keys = self._transposed(cache[0], [0, 1, 3, 2])
        scores = self._capped(self._wide(self._op("MatMul", [queries, keys])), cap)
        scores = self._op("Reshape", [scores, ints("own", [0, c.heads, -1, 0])])
        unseen = self._graph.stored("unseen", np.asarray(_UNSEEN, np.float32))
        seen = self._op("Softmax", [self._op("Where", [mask, scores, unseen])], {"axis": -1})
        if self._graph.dtype != ir.DataType.FLOAT:
            seen = self._op("Cast", [seen], {"to": self._graph.dtype})
        seen = self._op("Reshape", [seen, ints("shared.0", [0, c.kv_heads, -1, 0])])
        attended = self._op("MatMul", [seen, cache[1]])
        return self._op("Reshape", [attended, ints("own.head", [0, c.heads, -1, c.head_dim])])

    def _capped(self, x: ir.Value, cap: float) -> ir.Value:
        """Return ``cap * tanh(x / cap)`` of ``float32`` values."""
        limit = self._graph.stored(f"cap.{cap!r}", np.asarray(cap, np.float32))
        return self._op("Mul", [self._op("Tanh", [self._op("Div", [x, limit])]), limit])

    def _qk_norm(self, x: ir.Value, name: str, size: int) -> ir.Value:
        attributes = {"axis": -1, "epsilon": self._c.norm_epsilon}
        return self._op("RMSNormalization", [x, self._vector(name, size)], attributes)

    def _rotate(self, x: ir.Value, rope: Rope) -> ir.Value:
        tables = self._graph.rope(rope, self._c.context_length)
        partial = {"rotary_embedding_dim": rope.dims} if rope.dims < self._c.head_dim else {}
        return self._op("RotaryEmbedding", [x, *tables, self._rows], partial)

    def _query_factors(self, temperature: Temperature) -> ir.Value:
        """Return what the query of each token is multiplied by, ``float[B, 1, S, 1]``."""
        if self._factors is None:
            table = self._graph.floats("temperature", temperature.factors(self._c.context_length))
            factors = self._op("Gather", [table, self._positions.own])
            self._factors = self._op("Unsqueeze", [factors, self._graph.ints("[1]", [1])])
        return self._factors

    def _heads(self, x: ir.Value, count: int) -> ir.Value:
        """Cut ``float[B, S, width]`` into ``float[B, count, S, head_dim]``."""
        shape = self._graph.ints(f"heads.{count}", [0, 0, count, self._c.head_dim])
        return self._swapped(self._op("Reshape", [x, shape]))

    def _swapped(self, x: ir.Value) -> ir.Value:
        return self._transposed(x, [0, 2, 1, 3])

    def _transposed(self, x: ir.Value, order: Sequence[int]) -> ir.Value:
        attributes: dict[str, Any] = {"perm": order}
        return self._op("Transpose", [x], attributes)

    def _wide(self, x: ir.Value) -> ir.Value:
        """Return values as ``float32``."""
        if self._graph.dtype == ir.DataType.FLOAT:
            return x
        return self._op("Cast", [x], {"to": ir.DataType.FLOAT})

    def _vector(self, name: str, size: int) -> ir.Value:
        return self._graph.floats(name, self._weights.vector(name, size))

    def _op(
        self,
        kind: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, int | float | str] | None = None,
    ) -> ir.Value:
        return self._graph.op(kind, inputs, attributes)


def _name(value: ir.Value, name: str) -> None:
    """Name the node a value comes from, for what TensorRT may say about it."""
    node = value.producer()
    assert node is not None
    node.name = name
