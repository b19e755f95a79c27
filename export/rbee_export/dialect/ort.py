"""The ``ort`` dialect: ONNX Runtime's fused operators, for its CPU and CUDA providers.

The graph's inputs and outputs, with B rows of S tokens each, and ``float`` the type it computes in:

    input_ids               int64[B, S]     S > 1 (prefill) only with B = 1
    seqlens_k               int32[B]        positions in the cache after this step, less one
    total_sequence_length   int32           the largest of those positions
    position_ids            int64[B, S]     rows of the rotary tables; where the decoder needs them
    past_key.{i}            float[B, kv_heads, capacity, head_dim]; past_value.{i} alike
    logits                  float32[B, vocab], of each row's last token
    present_key.{i}         the same memory as past_key.{i}; present_value.{i} alike

A layer that has a DeltaNet or a state space instead of attention has no keys and values, but

    past_conv.{i}           float[B, taps - 1, channels], the latest that its convolution saw
    past_state.{i}          float[B, heads, key_dim, value_dim], or state_dim and head_dim
    present_conv.{i}        the same memory as past_conv.{i}; present_state.{i} alike

which are all zero before a sequence's first token. One that has a short convolution has the first.

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
from rbee_export.checkpoint.config import DeltaNet, Mamba2, ShortConvolution
from rbee_export.checkpoint.rope import Rope
from rbee_export.checkpoint.temperature import Temperature
from rbee_export.dialect.delta_net import delta_net_attributes, gated_delta_net
from rbee_export.dialect.mamba import mamba2, mamba2_attributes
from rbee_export.dialect.ort_operations import OPSET, OrtOperations
from rbee_export.dialect.short_convolution import (
    short_convolution,
    short_convolution_attributes,
)
from rbee_export.weights import Matrix, Weights
from rbee_export.weights_file import WeightsFile

__all__ = ["OPSET", "OrtDialect"]

_MS = "com.microsoft"
_SINKS_AT = 11
"""Where they are among the attention operator's inputs."""


class OrtDialect(OrtOperations):
    """A :class:`~rbee_export.decoder.Dialect` of ONNX Runtime's operators."""

    def __init__(
        self, config: DecoderConfig, weights: Weights, file: WeightsFile, dtype: ir.DataType
    ) -> None:
        super().__init__(config, weights, file, dtype)
        self._row_shapes: dict[int, ir.Value] = {}
        self._tied: Matrix | None = None
        self._ids = self._graph.input("input_ids", ir.DataType.INT64, ["batch", "sequence"])
        self._filled: dict[str, list[ir.Value]] = {}
        self._positions: ir.Value | None = None
        self._factors: ir.Value | None = None
        if config.needs_positions:
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
            *self._heads(qkv, norms, how.rope),
            *past,
            *self._filled_positions(kind),
        ]
        if how.rope is not None and not c.qk_norm_last:
            attributes["do_rotary"] = 1
            inputs += self._graph.rope(how.rope, c.context_length)
            if self._positions is not None:
                inputs.append(self._positions)
        if how.sinks:
            name = f"layers.{layer}.sinks"
            sinks = self._graph.floats(name, self._weights.vector(name, c.heads))
            inputs += [*([None] * (_SINKS_AT - len(inputs))), sinks]
        attended, *present = self._graph.op_multi_out(
            "GroupQueryAttention", inputs, attributes, outputs=3, domain=_MS
        )
        for kv, value in zip(("key", "value"), present, strict=True):
            self._graph.output(value, f"present_{kv}.{layer}", self._graph.dtype, cache)
        return self._out_of_rows(attended, c.q_width)

    def delta_net(self, qkvz: ir.Value, x: ir.Value, layer: int, net: DeltaNet) -> ir.Value:
        """See :class:`~rbee_export.decoder.Dialect`."""
        c, graph, at = self._c, self._graph, f"layers.{layer}.delta_"
        heads, weights = net.value_heads, self._weights
        b, a = (
            self._in_rows(self._products.of_numbers(x, at + short, heads, c.hidden), heads)
            for short in "ba"
        )
        held: dict[str, Sequence[int | str]] = {
            "conv": ["batch", net.taps - 1, net.channels],
            "state": ["batch", heads, net.key_dim, net.value_dim],
        }
        inputs = [
            self._in_rows(qkvz, net.channels + net.value_width),
            b,
            a,
            *self._pasts(layer, held),
            graph.floats(at + "conv", weights.filters(at + "conv", net.channels, net.taps)),
            graph.floats(at + "decay", weights.vector(at + "decay", heads)),
            graph.floats(at + "step", weights.vector(at + "step", heads)),
            graph.floats(at + "norm", weights.vector(at + "norm", net.value_dim)),
        ]
        function = gated_delta_net(OPSET, net, c.norm_epsilon)
        y, *present = graph.call_multi_out(
            function, inputs, delta_net_attributes(net, c.norm_epsilon)
        )
        self._presents(layer, held, present)
        return self._out_of_rows(y, net.value_width)

    def short_convolution(self, bcx: ir.Value, layer: int, net: ShortConvolution) -> ir.Value:
        """See :class:`~rbee_export.decoder.Dialect`."""
        held: dict[str, Sequence[int | str]] = {"conv": ["batch", net.taps - 1, net.channels]}
        name = f"layers.{layer}.conv_filters"
        filters = self._weights.filters(name, net.channels, net.taps)
        y, *present = self._graph.call_multi_out(
            short_convolution(OPSET),
            [
                self._in_rows(bcx, 3 * net.channels),
                *self._pasts(layer, held),
                self._graph.floats(name, filters),
            ],
            short_convolution_attributes(net),
        )
        self._presents(layer, held, present)
        return self._out_of_rows(y, net.channels)

    def mamba(self, zxbc: ir.Value, x: ir.Value, layer: int, net: Mamba2) -> ir.Value:
        """See :class:`~rbee_export.decoder.Dialect`."""
        c, graph, weights = self._c, self._graph, self._weights
        at, heads = f"layers.{layer}.mamba_", net.heads
        held: dict[str, Sequence[int | str]] = {
            "conv": ["batch", net.taps - 1, net.channels],
            "state": ["batch", heads, net.state_dim, net.head_dim],
        }
        vectors = {"conv_bias": net.channels, **dict.fromkeys(("decay", "step", "skip"), heads)}
        inputs = [
            self._in_rows(zxbc, net.width + net.channels),
            self._in_rows(self._products.of_numbers(x, at + "dt", heads, c.hidden), heads),
            *self._pasts(layer, held),
            graph.floats(at + "conv", weights.filters(at + "conv", net.channels, net.taps)),
            *(
                graph.floats(at + name, weights.vector(at + name, size))
                for name, size in {**vectors, "norm": net.width}.items()
            ),
        ]
        function = mamba2(OPSET, net, c.norm_epsilon)
        y, *present = graph.call_multi_out(function, inputs, mamba2_attributes(net, c.norm_epsilon))
        self._presents(layer, held, present)
        return self._out_of_rows(y, net.width)

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

    def _pasts(self, layer: int, held: Mapping[str, Sequence[int | str]]) -> list[ir.Value]:
        """Return the inputs that are a layer's state, of these shapes."""
        return [
            self._graph.input(f"past_{kind}.{layer}", self._graph.dtype, shape)
            for kind, shape in held.items()
        ]

    def _presents(
        self, layer: int, held: Mapping[str, Sequence[int | str]], values: Sequence[ir.Value]
    ) -> None:
        """Make the outputs that its state becomes."""
        for (kind, shape), value in zip(held.items(), values, strict=True):
            self._graph.output(value, f"present_{kind}.{layer}", self._graph.dtype, shape)

    def _filled_positions(self, kind: str) -> list[ir.Value]:
        """Return the inputs that say how full the cache of layers of a kind is."""
        if kind not in self._filled:
            self._filled[kind] = [
                self._graph.input(f"{kind}seqlens_k", ir.DataType.INT32, ["batch"]),
                self._graph.input(f"{kind}total_sequence_length", ir.DataType.INT32, []),
            ]
        return self._filled[kind]

    def _heads(
        self, qkv: ir.Value, norms: tuple[str, str] | None, rope: Rope | None
    ) -> Sequence[ir.Value | None]:
        """Return queries, keys and values as they are given to the attention operator."""
        c = self._c
        if norms is None and c.temperature is None:
            return qkv, None, None
        widths = self._graph.ints("qkv", [c.q_width, c.kv_width, c.kv_width])
        q, k, v = self._graph.op_multi_out("Split", [qkv, widths], {"axis": -1}, 3)
        if rope is not None and c.qk_norm_last:
            q, k = self._rotated(q, rope, c.heads), self._rotated(k, rope, c.kv_heads)
        if norms is not None:
            q = self._normed(q, norms[0], c.heads)
            k = self._normed(k, norms[1], c.kv_heads)
        if c.temperature is not None:
            q = self._op("Mul", [q, self._query_factors(c.temperature)])
        return q, k, v

    def _rotated(self, x: ir.Value, rope: Rope, heads: int) -> ir.Value:
        """Return queries or keys turned by where they stand, ``float[B, S, width]``."""
        tables = self._graph.rope(rope, self._c.context_length)
        attributes = {"num_heads": heads}
        if rope.dims < self._c.head_dim:
            attributes["rotary_embedding_dim"] = rope.dims
        return self._op("RotaryEmbedding", [x, self._positions, *tables], attributes, _MS)

    def _normed(self, x: ir.Value, name: str, heads: int) -> ir.Value:
        """Return queries or keys normalised, ``float[B, S, width]``."""
        c = self._c
        attributes = {"epsilon": c.norm_epsilon, "axis": -1}
        whole = c.qk_norm == "whole"
        size = heads * c.head_dim if whole else c.head_dim
        weight = self._graph.floats(name, self._weights.vector(name, size))
        if whole:
            return self._op("SimplifiedLayerNormalization", [x, weight], attributes)
        each = self._op(
            "Reshape", [x, self._graph.ints(f"heads.{heads}", [0, 0, heads, c.head_dim])]
        )
        each = self._op("SimplifiedLayerNormalization", [each, weight], attributes)
        return self._op("Reshape", [each, self._graph.ints("joined", [0, 0, -1])])

    def _query_factors(self, temperature: Temperature) -> ir.Value:
        """Return what the query of each token is multiplied by, ``float[B, S, 1]``."""
        if self._factors is None:
            factors = temperature.factors(self._c.context_length)
            table = self._graph.floats("temperature", factors)
            self._factors = self._op("Gather", [table, self._positions])
        return self._factors

    def _in_rows(self, x: ir.Value, width: int) -> ir.Value:
        """Return activations as ``[B, S, width]``."""
        if not self._flat:
            return x
        if width not in self._row_shapes:
            shape = self._op("Shape", [self._ids])
            parts = [shape, self._graph.ints(f"width.{width}", [width])]
            self._row_shapes[width] = self._op("Concat", parts, {"axis": 0})
        return self._op("Reshape", [x, self._row_shapes[width]])

    def _out_of_rows(self, x: ir.Value, width: int) -> ir.Value:
        """Return activations of ``[B, S, width]`` as products take them."""
        if not self._flat:
            return x
        return self._op("Reshape", [x, self._graph.ints(f"flat.{width}", [-1, width])])
