"""The ``ort`` dialect of an encoder: ONNX Runtime's operators over texts without padding.

The graph's inputs and output, for N texts of T tokens together, special tokens included, one text
after another:

    input_ids     int64[T]
    cu_seqlens    int32[N + 1]     where each text begins, and last T
    embeddings    float32[N, dim]

That of a reranker, whose texts are pairs, has an input more where there are types of tokens, and
gives ``scores`` instead:

    token_types   int32[T]         0 for tokens of the first of two texts, 1 for the second's
    scores        float32[N, 1]

With weights in blocks, activations are ``float[1, T, width]``; otherwise they are flat,
``float[T, width]``, for a product is then a ``Gemm``, which takes matrices only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rbee_export.blocks import BlockMatrix
from rbee_export.checkpoint.encoder_config import EncoderActivation, EncoderConfig
from rbee_export.checkpoint.pooling import Dense, Output, PoolingKind
from rbee_export.checkpoint.relative_positions import BUCKETS, by_distance
from rbee_export.dialect.functions import Gate
from rbee_export.dialect.graph import GraphWriter
from rbee_export.dialect.ort_operations import OPSET, is_flat
from rbee_export.dialect.packed_attention import packed_attention
from rbee_export.dialect.packed_relative_attention import packed_relative_attention
from rbee_export.dialect.packed_rotary_attention import packed_rotary_attention
from rbee_export.dialect.packed_texts import PackedTexts
from rbee_export.dialect.products import Products
from rbee_export.weights import Weights
from rbee_export.weights_file import WeightsFile

_MS = "com.microsoft"
_GATES: Mapping[EncoderActivation, Gate] = MappingProxyType(
    {"gelu": "GatedErfGelu", "gelu_tanh": "GatedGelu", "silu": "GatedSilu"}
)


class PackedDialect:
    """An :class:`~rbee_export.encoder.EncoderDialect` of ONNX Runtime's operators."""

    def __init__(
        self, config: EncoderConfig, weights: Weights, file: WeightsFile, dtype: ir.DataType
    ) -> None:
        self._c = config
        self._weights = weights
        self._graph = graph = GraphWriter(file, dtype)
        self._flat = is_flat(weights)
        self._products = Products(graph, weights, OPSET, flat=self._flat)
        self._texts = PackedTexts(graph)
        function = packed_relative_attention if config.relative else packed_attention
        if config.rotary:
            function = packed_rotary_attention
        self._attention = function(OPSET, dtype)
        self._biases: ir.Value | None = None
        self._texts.numbers()

    def model(self, producer_version: str) -> ir.Model:
        """Return the finished model; its weights stay in the weights file."""
        return self._graph.model(OPSET, {_MS: 1}, producer_version, ir_version=10, name="encoder")

    def embedding(self, name: str, rows: int) -> ir.Value:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        table = self._weights.matrix(name, rows, self._c.hidden)
        ids = self._in_rows(self._texts.ids)
        if isinstance(table, BlockMatrix):
            return self._products.looked_up(name, table, ids)
        return self._op("Gather", [self._graph.floats(name, table), ids])

    def positions(self, name: str, added: str | None) -> ir.Value:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        c, texts = self._c, self._texts
        table = self._table(name, c.context_length, c.hidden)
        if added is not None:
            table = table + self._weights.dense(added, 1, c.hidden)
        begin = self._op("Gather", [texts.begins, texts.numbers()])
        count = self._op("Squeeze", [self._op("Shape", [texts.ids])])
        count = self._op("Cast", [count], {"to": ir.DataType.INT32})
        own = self._op("Sub", [self._op("Range", [texts.index(0), count, texts.index(1)]), begin])
        return self._op("Gather", [self._graph.floats(name, table), self._in_rows(own)])

    def add_vector(self, x: ir.Value, name: str) -> ir.Value:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        row = self._table(name, 1, self._c.hidden)
        return self._op("Add", [x, self._graph.floats(name, row[0])])

    def add_types(self, x: ir.Value, name: str, rows: int) -> ir.Value:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        table = self._graph.floats(name, self._table(name, rows, self._c.hidden))
        own = self._op("Gather", [table, self._in_rows(self._texts.types())])
        return self._op("Add", [x, own])

    def norm(self, x: ir.Value, name: str) -> ir.Value:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        attributes = {"epsilon": self._c.norm_epsilon, "axis": -1}
        return self._op("LayerNormalization", [x, *self._of_norm(name)], attributes)

    def add_norm(self, residual: ir.Value, x: ir.Value, name: str) -> ir.Value:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        epsilon = {"epsilon": self._c.norm_epsilon}
        inputs = [x, residual, *self._of_norm(name)]
        return self._op("SkipLayerNormalization", inputs, epsilon, _MS)

    def add_and_norm(self, residual: ir.Value, x: ir.Value, name: str) -> tuple[ir.Value, ir.Value]:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        normed, _, _, total = self._graph.op_multi_out(
            "SkipLayerNormalization",
            [x, residual, *self._of_norm(name)],
            {"epsilon": self._c.norm_epsilon},
            outputs=4,
            domain=_MS,
        )
        return total, normed

    def linear(self, x: ir.Value, columns: int, rows: Mapping[str, int], *, bias: bool) -> ir.Value:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        return self._products.linear(x, columns, rows, bias=bias)

    def attention(self, qkv: ir.Value, layer: int) -> ir.Value:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        if not self._flat:
            return self._attended(qkv, layer)
        first = self._graph.ints("[0]", [0])
        rows = self._op("Unsqueeze", [qkv, first])
        return self._op("Squeeze", [self._attended(rows, layer), first])

    def activated(
        self,
        x: ir.Value,
        columns: int,
        rows: Mapping[str, int],
        kind: EncoderActivation,
        *,
        bias: bool,
    ) -> ir.Value:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        if kind == "gelu":
            return self._products.gelu(x, columns, rows, bias=bias)
        up = self.linear(x, columns, rows, bias=bias)
        if kind == "gelu_tanh":
            return self._op("Gelu", [up], {"approximate": "tanh"})
        if kind == "relu":
            return self._op("Relu", [up])
        # QuickGelu is x * sigmoid(alpha * x): at alpha 1, SiLU in one operator.
        return self._op("QuickGelu", [up], {"alpha": 1.0}, _MS)

    def gated(
        self,
        x: ir.Value,
        columns: int,
        rows: Mapping[str, int],
        kind: EncoderActivation,
        *,
        bias: bool,
    ) -> ir.Value:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        return self._products.gated(x, columns, rows, _GATES[kind], bias=bias)

    def pooled(self, x: ir.Value, kind: PoolingKind) -> ir.Value:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        if not self._flat:
            x = self._op("Squeeze", [x, self._graph.ints("[0]", [0])])
        return self._texts.pooled(x, kind)

    def normalized(self, x: ir.Value) -> ir.Value:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        return self._texts.normalized(x)

    def dense(self, x: ir.Value, at: str, layer: Dense) -> ir.Value:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        return self._products.dense(x, at, layer)

    def output(self, x: ir.Value, name: Output, width: int) -> None:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        self._texts.output(x, name, width)

    def _attended(self, rows: ir.Value, layer: int) -> ir.Value:
        """Return the attention of queries, keys and values in one row, ``float[1, T, hidden]``."""
        c, inputs = self._c, [rows, self._texts.begins]
        attributes: dict[str, int | float] = {"num_heads": c.heads}
        if c.relative:
            inputs.append(self._relative_bias("distances"))
        if c.rotary:
            inputs += self._graph.rope(c.rotary[layer].rope, c.context_length)
            scale = c.head_dim**-0.5
            attributes |= {"kv_num_heads": c.heads, "reach": c.reach(layer), "scale": scale}
        return self._graph.call(self._attention, inputs, attributes)

    def _relative_bias(self, name: str) -> ir.Value:
        """Return what scores have added, ``float[heads, 2 * context_length - 1]``."""
        if self._biases is None:
            table = by_distance(self._table(name, BUCKETS, self._c.heads), self._c.context_length)
            self._biases = self._graph.floats(name, table)
        return self._biases

    def _of_norm(self, name: str) -> list[ir.Value]:
        """Return what a norm multiplies by, and what it adds."""
        hidden = self._c.hidden
        weight = self._graph.floats(name, self._weights.vector(name, hidden))
        if not self._c.norm_bias:
            # Our kernels want one.
            return [weight, self._graph.floats("no_bias", np.zeros(hidden, np.float32))]
        bias = f"{name}_bias"
        return [weight, self._graph.floats(bias, self._weights.vector(bias, hidden))]

    def _table(self, name: str, rows: int, columns: int) -> NDArray[np.float32]:
        """Return a weight that the graph holds as numbers of its own type."""
        dtype = "float32" if self._graph.dtype == ir.DataType.FLOAT else "float16"
        return self._weights.table(name, rows, columns, dtype)

    def _in_rows(self, x: ir.Value) -> ir.Value:
        """Return what there is of each token, ``[T]``, as the activations are laid out."""
        return x if self._flat else self._op("Unsqueeze", [x, self._graph.ints("[0]", [0])])

    def _op(
        self,
        kind: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, int | float | str | ir.TensorProtocol] | None = None,
        domain: str = "",
    ) -> ir.Value:
        return self._graph.op(kind, inputs, attributes, domain)
