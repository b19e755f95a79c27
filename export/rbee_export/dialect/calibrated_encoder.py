"""An encoder's graph and, beside it, the activations of some texts at every place in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

import numpy as np

from rbee_export.checkpoint.encoder_config import EncoderActivation
from rbee_export.checkpoint.pooling import Dense, Output, PoolingKind
from rbee_export.dialect.encoder_reference import EncoderReference
from rbee_export.dialect.reference import Floats
from rbee_export.encoder import EncoderDialect
from rbee_export.rounding import InputMoments
from rbee_export.weights import Weights

V = TypeVar("V")


class CalibratedEncoder(Generic[V]):
    """An :class:`~rbee_export.encoder.EncoderDialect` that has matrices rounded to what they
    multiply, as :class:`~rbee_export.dialect.CalibratedDialect` does for decoders.
    """

    def __init__(self, graph: EncoderDialect[V], texts: EncoderReference, weights: Weights) -> None:
        """Pair them.

        Args:
            graph: The dialect of the graph.
            texts: An evaluation of the checkpoint's own weights.
            weights: Those of the graph.
        """
        self._graph = graph
        self._texts = texts
        self._weights = weights

    def embedding(self, name: str, rows: int) -> tuple[V, Floats]:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        return self._graph.embedding(name, rows), self._texts.embedding(name, rows)

    def positions(self, name: str, added: str | None) -> tuple[V, Floats]:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        return self._graph.positions(name, added), self._texts.positions(name, added)

    def add_vector(self, x: tuple[V, Floats], name: str) -> tuple[V, Floats]:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        return self._graph.add_vector(x[0], name), self._texts.add_vector(x[1], name)

    def add_types(self, x: tuple[V, Floats], name: str, rows: int) -> tuple[V, Floats]:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        typed = self._graph.add_types(x[0], name, rows)
        return typed, self._texts.add_types(x[1], name, rows)

    def norm(self, x: tuple[V, Floats], name: str) -> tuple[V, Floats]:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        return self._graph.norm(x[0], name), self._texts.norm(x[1], name)

    def add_norm(
        self, residual: tuple[V, Floats], x: tuple[V, Floats], name: str
    ) -> tuple[V, Floats]:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        normed = self._graph.add_norm(residual[0], x[0], name)
        return normed, self._texts.add_norm(residual[1], x[1], name)

    def add_and_norm(
        self, residual: tuple[V, Floats], x: tuple[V, Floats], name: str
    ) -> tuple[tuple[V, Floats], tuple[V, Floats]]:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        total, normed = self._graph.add_and_norm(residual[0], x[0], name)
        of_texts, normed_texts = self._texts.add_and_norm(residual[1], x[1], name)
        return (total, of_texts), (normed, normed_texts)

    def linear(
        self, x: tuple[V, Floats], columns: int, rows: Mapping[str, int], *, bias: bool
    ) -> tuple[V, Floats]:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        product = self._rounded_product(x[1], columns, rows, bias=bias)
        return self._graph.linear(x[0], columns, rows, bias=bias), product

    def attention(self, qkv: tuple[V, Floats], layer: int) -> tuple[V, Floats]:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        return self._graph.attention(qkv[0], layer), self._texts.attention(qkv[1], layer)

    def activated(
        self,
        x: tuple[V, Floats],
        columns: int,
        rows: Mapping[str, int],
        kind: EncoderActivation,
        *,
        bias: bool,
    ) -> tuple[V, Floats]:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        product = self._rounded_product(x[1], columns, rows, bias=bias)
        activated = self._graph.activated(x[0], columns, rows, kind, bias=bias)
        return activated, self._texts.activation(product, kind)

    def gated(
        self,
        x: tuple[V, Floats],
        columns: int,
        rows: Mapping[str, int],
        kind: EncoderActivation,
        *,
        bias: bool,
    ) -> tuple[V, Floats]:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        product = self._rounded_product(x[1], columns, rows, bias=bias)
        gated = self._graph.gated(x[0], columns, rows, kind, bias=bias)
        return gated, self._texts.gate(product, kind)

    def pooled(self, x: tuple[V, Floats], kind: PoolingKind) -> tuple[V, Floats]:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        return self._graph.pooled(x[0], kind), self._texts.pooled(x[1], kind)

    def normalized(self, x: tuple[V, Floats]) -> tuple[V, Floats]:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        return self._graph.normalized(x[0]), self._texts.normalized(x[1])

    def dense(self, x: tuple[V, Floats], at: str, layer: Dense) -> tuple[V, Floats]:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        return self._graph.dense(x[0], at, layer), self._texts.dense(x[1], at, layer)

    def output(self, x: tuple[V, Floats], name: Output, width: int) -> None:
        """Have the graph give its vectors; nothing comes after those of the texts."""
        self._graph.output(x[0], name, width)

    def _rounded_product(
        self, x: Floats, columns: int, rows: Mapping[str, int], *, bias: bool
    ) -> Floats:
        """Round matrices to what they multiply, and return what they then make of it."""
        inputs = InputMoments.of(x)
        parts = [x @ self._weights.rounded(name, n, columns, inputs).T for name, n in rows.items()]
        product: Floats = np.concatenate(parts, axis=-1)
        return product + self._texts.bias(rows) if bias else product
