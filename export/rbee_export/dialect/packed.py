"""The ``ort`` dialect of an encoder: ONNX Runtime's operators over texts without padding.

The graph's inputs and output, for N texts of T tokens together, special tokens included, one text
after another:

    input_ids     int64[T]
    cu_seqlens    int32[N + 1]     where each text begins, and last T
    embeddings    float32[N, hidden]

With weights in blocks, activations are ``float[1, T, width]``; otherwise they are flat,
``float[T, width]``, for a product is then a ``Gemm``, which takes matrices only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from rbee_export.blocks import BlockMatrix
from rbee_export.checkpoint.encoder_config import EncoderActivation, EncoderConfig
from rbee_export.checkpoint.pooling import PoolingKind
from rbee_export.dialect.graph import GraphWriter
from rbee_export.dialect.ort_operations import OPSET, is_flat
from rbee_export.dialect.packed_attention import packed_attention
from rbee_export.dialect.packed_texts import PackedTexts
from rbee_export.dialect.products import Products
from rbee_export.weights import Weights
from rbee_export.weights_file import WeightsFile

_MS = "com.microsoft"


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
        self._attention = packed_attention(OPSET, dtype)
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
        dtype = "float32" if self._graph.dtype == ir.DataType.FLOAT else "float16"
        table = self._weights.table(name, c.context_length, c.hidden, dtype)
        if added is not None:
            table = table + self._weights.dense(added, 1, c.hidden)
        begin = self._op("Gather", [texts.begins, texts.numbers()])
        count = self._op("Squeeze", [self._op("Shape", [texts.ids])])
        count = self._op("Cast", [count], {"to": ir.DataType.INT32})
        own = self._op("Sub", [self._op("Range", [texts.index(0), count, texts.index(1)]), begin])
        return self._op("Gather", [self._graph.floats(name, table), self._in_rows(own)])

    def add_norm(self, residual: ir.Value, x: ir.Value, name: str) -> ir.Value:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        parts = [
            self._graph.floats(part, self._weights.vector(part, self._c.hidden))
            for part in (name, f"{name}_bias")
        ]
        epsilon = {"epsilon": self._c.norm_epsilon}
        return self._op("SkipLayerNormalization", [x, residual, *parts], epsilon, _MS)

    def linear(self, x: ir.Value, columns: int, rows: Mapping[str, int]) -> ir.Value:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        return self._products.linear(x, columns, rows, bias=True)

    def attention(self, qkv: ir.Value) -> ir.Value:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        heads = {"num_heads": self._c.heads}
        if not self._flat:
            return self._graph.call(self._attention, [qkv, self._texts.begins], heads)
        first = self._graph.ints("[0]", [0])
        rows = self._op("Unsqueeze", [qkv, first])
        attended = self._graph.call(self._attention, [rows, self._texts.begins], heads)
        return self._op("Squeeze", [attended, first])

    def activated(
        self, x: ir.Value, columns: int, rows: Mapping[str, int], kind: EncoderActivation
    ) -> ir.Value:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        if kind == "gelu":
            return self._products.gelu(x, columns, rows)
        up = self.linear(x, columns, rows)
        if kind == "gelu_tanh":
            return self._op("Gelu", [up], {"approximate": "tanh"})
        if kind == "relu":
            return self._op("Relu", [up])
        # QuickGelu is x * sigmoid(alpha * x): at alpha 1, SiLU in one operator.
        return self._op("QuickGelu", [up], {"alpha": 1.0}, _MS)

    def pooled(self, x: ir.Value, kind: PoolingKind) -> ir.Value:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        if not self._flat:
            x = self._op("Squeeze", [x, self._graph.ints("[0]", [0])])
        return self._texts.pooled(x, kind)

    def normalized(self, x: ir.Value) -> ir.Value:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        return self._texts.normalized(x)

    def output(self, x: ir.Value) -> None:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        self._texts.output(x, self._c.hidden)

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
