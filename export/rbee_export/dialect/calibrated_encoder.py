"""An encoder's graph and, beside it, the activations of some texts at every place in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

import numpy as np

from rbee_export.checkpoint.encoder_config import EncoderActivation
from rbee_export.checkpoint.pooling import PoolingKind
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

    def add_norm(
        self, residual: tuple[V, Floats], x: tuple[V, Floats], name: str
    ) -> tuple[V, Floats]:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        normed = self._graph.add_norm(residual[0], x[0], name)
        return normed, self._texts.add_norm(residual[1], x[1], name)

    def linear(
        self, x: tuple[V, Floats], columns: int, rows: Mapping[str, int]
    ) -> tuple[V, Floats]:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        product = self._rounded_product(x[1], columns, rows)
        return self._graph.linear(x[0], columns, rows), product

    def attention(self, qkv: tuple[V, Floats]) -> tuple[V, Floats]:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        return self._graph.attention(qkv[0]), self._texts.attention(qkv[1])

    def activated(
        self, x: tuple[V, Floats], columns: int, rows: Mapping[str, int], kind: EncoderActivation
    ) -> tuple[V, Floats]:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        product = self._rounded_product(x[1], columns, rows)
        activated = self._graph.activated(x[0], columns, rows, kind)
        return activated, self._texts.activation(product, kind)

    def pooled(self, x: tuple[V, Floats], kind: PoolingKind) -> tuple[V, Floats]:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        return self._graph.pooled(x[0], kind), self._texts.pooled(x[1], kind)

    def normalized(self, x: tuple[V, Floats]) -> tuple[V, Floats]:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        return self._graph.normalized(x[0]), self._texts.normalized(x[1])

    def output(self, x: tuple[V, Floats]) -> None:
        """Have the graph give its vectors; nothing comes after those of the texts."""
        self._graph.output(x[0])

    def _rounded_product(self, x: Floats, columns: int, rows: Mapping[str, int]) -> Floats:
        """Round matrices to what they multiply, and return what they then make of it."""
        inputs = InputMoments.of(x)
        parts = [x @ self._weights.rounded(name, n, columns, inputs).T for name, n in rows.items()]
        product: Floats = np.concatenate(parts, axis=-1) + self._texts.bias(rows)
        return product
