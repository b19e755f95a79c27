"""The ``reference`` dialect of a decoder that embeds texts: evaluated in NumPy, in float32.

Activations are ``float32[T, width]``: N texts of T tokens together, one after another.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rbee_export.checkpoint import DecoderConfig
from rbee_export.checkpoint.pooling import SentencePooling
from rbee_export.dialect.reference import Floats, ReferenceDialect
from rbee_export.dialect.text_vectors import normalized, pooled, through
from rbee_export.weights import Weights


class PackedReference(ReferenceDialect):
    """A :class:`~rbee_export.decoder.Dialect` that embeds texts.

    Attributes:
        output: One vector a text, ``float32[N, dim]``, once the decoder is built.
    """

    def __init__(
        self,
        config: DecoderConfig,
        pooling: SentencePooling,
        weights: Weights,
        texts: Sequence[Sequence[int]],
    ) -> None:
        super().__init__(config, weights, [token for text in texts for token in text])
        self._pooling = pooling
        self._cuts = np.cumsum([len(text) for text in texts])[:-1]

    def attention(self, qkv: Floats, layer: int, norms: tuple[str, str] | None) -> Floats:
        """See :class:`~rbee_export.decoder.Dialect`."""
        attend = super().attention
        texts = np.split(qkv, self._cuts)
        return np.concatenate([attend(text, layer, norms) for text in texts])

    def last_position(self, x: Floats) -> Floats:
        """Make one vector of those of a text's tokens."""
        vectors = pooled(np.split(x, self._cuts), self._pooling.kind)
        for at, layer in self._pooling.named_layers():
            vectors = through(self._weights, vectors, at, layer)
        return vectors

    def logits(
        self, x: Floats, name: str, rows: int, *, tied: bool, bias: bool, cap: float | None
    ) -> None:
        """Keep the vectors."""
        del name, rows, tied, bias, cap
        self.output = normalized(x) if self._pooling.normalized else x
