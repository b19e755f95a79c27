"""A graph and, beside it, the activations of a text at every place in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

import numpy as np

from rbee_export.checkpoint.config import Activation, DeltaNet, Experts, Mamba2, ShortConvolution
from rbee_export.decoder import Dialect
from rbee_export.dialect.calibrated_experts import round_experts
from rbee_export.dialect.reference import Floats, ReferenceDialect
from rbee_export.rounding import InputMoments
from rbee_export.weights import Weights

V = TypeVar("V")


class CalibratedDialect(Generic[V]):
    """A :class:`~rbee_export.decoder.Dialect` that has matrices rounded to what they multiply.

    Whatever a graph is told, an evaluation is told as well. Where it comes to matrices, they are
    rounded to the activations it has there, the graph gets them so, and the evaluation goes on with
    what they then stand for: later matrices are rounded to what earlier ones made of the text. Held
    at a time are the matrices of one product, and the activations.
    """

    def __init__(self, graph: Dialect[V], text: ReferenceDialect, weights: Weights) -> None:
        """Pair them.

        Args:
            graph: The dialect of the graph.
            text: An evaluation of the checkpoint's own weights.
            weights: Those of the graph.
        """
        self._graph = graph
        self._text = text
        self._weights = weights

    def embedding(self, name: str, rows: int) -> tuple[V, Floats]:
        """See :class:`~rbee_export.decoder.Dialect`."""
        return self._graph.embedding(name, rows), self._text.embedding(name, rows)

    def norm(self, x: tuple[V, Floats], name: str) -> tuple[V, Floats]:
        """See :class:`~rbee_export.decoder.Dialect`."""
        return self._graph.norm(x[0], name), self._text.norm(x[1], name)

    def add(self, a: tuple[V, Floats], b: tuple[V, Floats]) -> tuple[V, Floats]:
        """See :class:`~rbee_export.decoder.Dialect`."""
        return self._graph.add(a[0], b[0]), self._text.add(a[1], b[1])

    def add_norm(
        self, residual: tuple[V, Floats], x: tuple[V, Floats], name: str
    ) -> tuple[tuple[V, Floats], tuple[V, Floats]]:
        """See :class:`~rbee_export.decoder.Dialect`."""
        total, normed = self._graph.add_norm(residual[0], x[0], name)
        text_total, text_normed = self._text.add_norm(residual[1], x[1], name)
        return (total, text_total), (normed, text_normed)

    def scale(self, x: tuple[V, Floats], factor: float) -> tuple[V, Floats]:
        """See :class:`~rbee_export.decoder.Dialect`."""
        return self._graph.scale(x[0], factor), self._text.scale(x[1], factor)

    def linear(
        self, x: tuple[V, Floats], columns: int, rows: Mapping[str, int], *, bias: bool
    ) -> tuple[V, Floats]:
        """See :class:`~rbee_export.decoder.Dialect`."""
        product = self._rounded_product(x[1], columns, rows, bias=bias)
        return self._graph.linear(x[0], columns, rows, bias=bias), product

    def attention(
        self, qkv: tuple[V, Floats], layer: int, norms: tuple[str, str] | None
    ) -> tuple[V, Floats]:
        """See :class:`~rbee_export.decoder.Dialect`."""
        return (
            self._graph.attention(qkv[0], layer, norms),
            self._text.attention(qkv[1], layer, norms),
        )

    def delta_net(
        self, qkvz: tuple[V, Floats], x: tuple[V, Floats], layer: int, net: DeltaNet
    ) -> tuple[V, Floats]:
        """See :class:`~rbee_export.decoder.Dialect`."""
        return (
            self._graph.delta_net(qkvz[0], x[0], layer, net),
            self._text.delta_net(qkvz[1], x[1], layer, net),
        )

    def short_convolution(
        self, bcx: tuple[V, Floats], layer: int, net: ShortConvolution
    ) -> tuple[V, Floats]:
        """See :class:`~rbee_export.decoder.Dialect`."""
        return (
            self._graph.short_convolution(bcx[0], layer, net),
            self._text.short_convolution(bcx[1], layer, net),
        )

    def mamba(
        self, zxbc: tuple[V, Floats], x: tuple[V, Floats], layer: int, net: Mamba2
    ) -> tuple[V, Floats]:
        """See :class:`~rbee_export.decoder.Dialect`."""
        return (
            self._graph.mamba(zxbc[0], x[0], layer, net),
            self._text.mamba(zxbc[1], x[1], layer, net),
        )

    def open_gate(self, y: tuple[V, Floats], gate: tuple[V, Floats]) -> tuple[V, Floats]:
        """See :class:`~rbee_export.decoder.Dialect`."""
        return self._graph.open_gate(y[0], gate[0]), self._text.open_gate(y[1], gate[1])

    def activation(self, x: tuple[V, Floats], kind: Activation) -> tuple[V, Floats]:
        """See :class:`~rbee_export.decoder.Dialect`."""
        return self._graph.activation(x[0], kind), self._text.activation(x[1], kind)

    def gated(
        self,
        x: tuple[V, Floats],
        columns: int,
        rows: Mapping[str, int],
        kind: Activation,
        *,
        bias: bool,
    ) -> tuple[V, Floats]:
        """See :class:`~rbee_export.decoder.Dialect`."""
        product = self._rounded_product(x[1], columns, rows, bias=bias)
        gated = self._graph.gated(x[0], columns, rows, kind, bias=bias)
        return gated, self._text.gate(product, kind)

    def experts(
        self, x: tuple[V, Floats], at: str, columns: int, experts: Experts
    ) -> tuple[V, Floats]:
        """See :class:`~rbee_export.decoder.Dialect`."""
        outcome = round_experts(
            self._text, self._weights, x[1], at=at, columns=columns, experts=experts
        )
        return self._graph.experts(x[0], at, columns, experts), outcome

    def let_through(
        self, y: tuple[V, Floats], x: tuple[V, Floats], name: str, columns: int
    ) -> tuple[V, Floats]:
        """See :class:`~rbee_export.decoder.Dialect`."""
        return (
            self._graph.let_through(y[0], x[0], name, columns),
            self._text.let_through(y[1], x[1], name, columns),
        )

    def last_position(self, x: tuple[V, Floats]) -> tuple[V, Floats]:
        """See :class:`~rbee_export.decoder.Dialect`."""
        return self._graph.last_position(x[0]), self._text.last_position(x[1])

    def logits(
        self,
        x: tuple[V, Floats],
        name: str,
        rows: int,
        *,
        tied: bool,
        bias: bool,
        cap: float | None,
    ) -> None:
        """Have the graph give its logits; nothing comes after those of the text."""
        self._graph.logits(x[0], name, rows, tied=tied, bias=bias, cap=cap)

    def _rounded_product(
        self, x: Floats, columns: int, rows: Mapping[str, int], *, bias: bool
    ) -> Floats:
        """Round matrices to what they multiply, and return what they then make of it."""
        inputs = InputMoments.of(x)
        parts = [x @ self._weights.rounded(name, n, columns, inputs).T for name, n in rows.items()]
        product: Floats = np.concatenate(parts, axis=-1)
        if bias:
            product += self._text.bias(rows)
        return product
