"""The ``ort`` dialect of a decoder that embeds texts: packed as an encoder's are.

The graph's inputs and output, for N texts of T tokens together, special tokens included, one text
after another:

    input_ids     int64[T]
    cu_seqlens    int32[N + 1]     where each text begins, and last T
    embeddings    float32[N, dim]

What would be the last position of a language model is the pooling of texts here, and vectors take
the place of logits. Activations are laid out as an encoder's.
"""

from __future__ import annotations

import onnx_ir as ir

from rbee_export.blocks import BlockMatrix
from rbee_export.checkpoint import DecoderConfig
from rbee_export.checkpoint.config import DeltaNet, Mamba2, ShortConvolution
from rbee_export.checkpoint.pooling import SentencePooling
from rbee_export.dialect.ort_operations import OPSET, OrtOperations
from rbee_export.dialect.packed_causal_attention import packed_causal_attention
from rbee_export.dialect.packed_rotary_attention import packed_rotary_attention
from rbee_export.dialect.packed_texts import PackedTexts
from rbee_export.weights import Weights
from rbee_export.weights_file import WeightsFile

_MS = "com.microsoft"


class PackedDecoder(OrtOperations):
    """A :class:`~rbee_export.decoder.Dialect` that embeds texts, of ONNX Runtime's operators."""

    def __init__(
        self,
        config: DecoderConfig,
        pooling: SentencePooling,
        weights: Weights,
        file: WeightsFile,
        dtype: ir.DataType,
    ) -> None:
        super().__init__(config, weights, file, dtype)
        self._pooling = pooling
        self._texts = PackedTexts(self._graph)
        norms = config.qk_norm != "none"
        if config.causal:
            self._attention = packed_causal_attention(OPSET, dtype, norms=norms)
        else:
            shared = config.heads != config.kv_heads
            self._attention = packed_rotary_attention(OPSET, dtype, norms=norms, shared=shared)

    def model(self, producer_version: str) -> ir.Model:
        """Return the finished model; its weights stay in the weights file."""
        return self._graph.model(OPSET, {_MS: 1}, producer_version, ir_version=10)

    def embedding(self, name: str, rows: int) -> ir.Value:
        """See :class:`~rbee_export.decoder.Dialect`."""
        table = self._weights.matrix(name, rows, self._c.hidden)
        ids = self._texts.ids
        if not isinstance(table, BlockMatrix):
            looked_up = self._op("Gather", [self._graph.floats(name, table), ids])
            return looked_up if self._flat else self._in_rows(looked_up)
        return self._products.looked_up(name, table, self._in_rows(ids))

    def attention(self, qkv: ir.Value, layer: int, norms: tuple[str, str] | None) -> ir.Value:
        """See :class:`~rbee_export.decoder.Dialect`."""
        c, how = self._c, self._c.attention[layer]
        assert how.rope is not None
        rows = self._in_rows(qkv) if self._flat else qkv
        inputs = [rows, self._texts.begins, *self._graph.rope(how.rope, c.context_length)]
        attributes: dict[str, int | float] = {"num_heads": c.heads, "kv_num_heads": c.kv_heads}
        if c.causal:
            attributes["local_window_size"] = -1 if how.window is None else how.window
        else:
            attributes["reach"] = c.context_length if how.window is None else how.window - 1
        scale = c.head_dim**-0.5 if c.attention_scale is None else c.attention_scale
        attributes["scale"] = scale
        if c.causal:
            attributes["softcap"] = c.attention_cap or 0.0
        if norms is not None:
            widths = (c.q_width, c.kv_width) if c.qk_norm == "whole" else (c.head_dim, c.head_dim)
            inputs += [
                self._graph.floats(name, self._weights.vector(name, width))
                for name, width in zip(norms, widths, strict=True)
            ]
            attributes["epsilon"] = c.norm_epsilon
        attended = self._graph.call(self._attention, inputs, attributes)
        return self._of_tokens(attended) if self._flat else attended

    def delta_net(self, qkvz: ir.Value, x: ir.Value, layer: int, net: DeltaNet) -> ir.Value:
        """Refuse: :mod:`~rbee_export.checkpoint.embedding_decoder` does so before."""
        raise NotImplementedError(f"layers.{layer}: a DeltaNet over texts in one pack")

    def short_convolution(self, bcx: ir.Value, layer: int, net: ShortConvolution) -> ir.Value:
        """Refuse as well."""
        raise NotImplementedError(f"layers.{layer}: a convolution over texts in one pack")

    def mamba(self, zxbc: ir.Value, x: ir.Value, layer: int, net: Mamba2) -> ir.Value:
        """Refuse as well."""
        raise NotImplementedError(f"layers.{layer}: a state space over texts in one pack")

    def last_position(self, x: ir.Value) -> ir.Value:
        """Make one vector of those of a text's tokens."""
        vectors = self._texts.pooled(x if self._flat else self._of_tokens(x), self._pooling.kind)
        for at, layer in self._pooling.named_layers():
            vectors = self._products.dense(vectors, at, layer)
        return vectors

    def logits(
        self, x: ir.Value, name: str, rows: int, *, tied: bool, bias: bool, cap: float | None
    ) -> None:
        """Make the vectors, one a text, the output."""
        del name, rows, tied, bias, cap
        vectors = self._texts.normalized(x) if self._pooling.normalized else x
        self._texts.output(vectors, self._pooling.output, self._pooling.width(self._c.hidden))

    def _in_rows(self, x: ir.Value) -> ir.Value:
        """Return what there is of each token as one row of all tokens, ``[1, T, ...]``."""
        return self._op("Unsqueeze", [x, self._graph.ints("[0]", [0])])

    def _of_tokens(self, x: ir.Value) -> ir.Value:
        """Return the only row of all tokens, ``[T, ...]``."""
        return self._op("Squeeze", [x, self._graph.ints("[0]", [0])])
