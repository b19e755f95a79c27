"""What graphs of decoders have in common, whatever they are for, in ONNX Runtime's operators.

Activations are ``float[B, S, width]`` or, flat, ``float[B * S, width]``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from rbee_export.checkpoint import DecoderConfig
from rbee_export.checkpoint.config import Activation, Experts
from rbee_export.dialect.functions import Gate
from rbee_export.dialect.graph import GraphWriter
from rbee_export.dialect.products import Products
from rbee_export.weights import Weights
from rbee_export.weights_file import WeightsFile

OPSET = 21
_MS = "com.microsoft"
_GATES: Mapping[Activation, Gate] = {"silu": "GatedSilu", "gelu_tanh": "GatedGelu"}
_KEPT_IN_ROWS = ("int8", "int4", "gguf")
"""Precisions whose activations keep their rows."""


class OrtOperations:
    """Those operations of a :class:`~rbee_export.decoder.Dialect` that see each token by itself."""

    def __init__(
        self, config: DecoderConfig, weights: Weights, file: WeightsFile, dtype: ir.DataType
    ) -> None:
        self._c = config
        self._weights = weights
        self._graph = GraphWriter(file, dtype)
        self._flat = is_flat(weights)
        self._products = Products(self._graph, weights, OPSET, flat=self._flat)

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

    def activation(self, x: ir.Value, kind: Activation) -> ir.Value:
        """See :class:`~rbee_export.decoder.Dialect`."""
        if kind == "gelu_tanh":
            return self._op("Gelu", [x], {"approximate": "tanh"})
        if kind == "relu2":
            positive = self._op("Relu", [x])
            return self._op("Mul", [positive, positive])
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
        return self._products.gated(x, columns, rows, _GATES[kind], bias=bias)

    def open_gate(self, y: ir.Value, gate: ir.Value) -> ir.Value:
        """See :class:`~rbee_export.decoder.Dialect`."""
        return self._op("Mul", [y, self._op("Sigmoid", [gate])])

    def experts(self, x: ir.Value, at: str, columns: int, experts: Experts) -> ir.Value:
        """See :class:`~rbee_export.decoder.Dialect`."""
        return self._products.experts(x, at, columns, experts)

    def let_through(self, y: ir.Value, x: ir.Value, name: str, columns: int) -> ir.Value:
        """See :class:`~rbee_export.decoder.Dialect`."""
        share = self._op("Sigmoid", [self._products.of_numbers(x, name, 1, columns)])
        return self._op("Mul", [y, share])

    def _norm_weights(self, name: str) -> list[ir.Value]:
        c = self._c
        weight = self._graph.floats(name, self._weights.vector(name, c.hidden))
        if c.norm == "rms":
            return [weight]
        if not c.norm_bias:
            # Our kernels have layer norms with biases alone.
            return [weight, self._graph.floats("no_bias", np.zeros(c.hidden, np.float32))]
        bias = f"{name}_bias"
        return [weight, self._graph.floats(bias, self._weights.vector(bias, c.hidden))]

    def _op(
        self,
        kind: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, int | float | str] | None = None,
        domain: str = "",
    ) -> ir.Value:
        return self._graph.op(kind, inputs, attributes, domain)


def is_flat(weights: Weights) -> bool:
    """Return whether activations do without rows, for a product to be a ``Gemm``."""
    return weights.precision not in _KEPT_IN_ROWS
