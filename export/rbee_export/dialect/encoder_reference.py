"""The ``reference`` dialect of an encoder: evaluated in NumPy, in float32.

Activations are ``float32[T, width]``: N texts of T tokens together, one after another. A few rows
of one weight are in memory at a time. What a graph computes is measured against this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rbee_export.checkpoint.encoder_config import EncoderActivation, EncoderConfig
from rbee_export.checkpoint.pooling import Dense, Output, PoolingKind
from rbee_export.checkpoint.relative_positions import BUCKETS, by_distance
from rbee_export.checkpoint.rope import Rope
from rbee_export.dialect.encoder_activations import activated
from rbee_export.dialect.reference import Floats, looked_up, product, rotated
from rbee_export.dialect.text_vectors import normalized, pooled, through
from rbee_export.weights import Weights


class EncoderReference:
    """An :class:`~rbee_export.encoder.EncoderDialect` that computes.

    Attributes:
        embeddings: One vector a text, ``float32[N, dim]``, once the encoder is built.
    """

    def __init__(
        self,
        config: EncoderConfig,
        weights: Weights,
        texts: Sequence[Sequence[int]],
        types: Sequence[Sequence[int]] | None = None,
    ) -> None:
        """Take texts.

        Args:
            config: The model.
            weights: Its weights.
            texts: Tokens of each.
            types: Their types; ``None`` where all are of the first.
        """
        self.embeddings: Floats = np.empty((0, config.hidden), np.float32)
        self._c = config
        self._weights = weights
        self._ids = np.concatenate([np.asarray(text, np.intp) for text in texts])
        self._types = np.zeros_like(self._ids)
        if types is not None:
            self._types = np.concatenate([np.asarray(text, np.intp) for text in types])
        self._lengths = [len(text) for text in texts]
        self._cuts = np.cumsum(self._lengths)[:-1]
        self._ropes: dict[Rope, tuple[Floats, Floats]] = {}
        self._biases: Floats | None = None

    def embedding(self, name: str, rows: int) -> Floats:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        return looked_up(self._weights, name, rows, self._c.hidden, self._ids)

    def positions(self, name: str, added: str | None) -> Floats:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        table = self._weights.dense(name, self._c.context_length, self._c.hidden)
        own = np.concatenate([np.arange(length) for length in self._lengths])
        places: Floats = table[own]
        return places if added is None else places + self._weights.dense(added, 1, self._c.hidden)

    def add_vector(self, x: Floats, name: str) -> Floats:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        return x + self._weights.dense(name, 1, self._c.hidden)

    def add_types(self, x: Floats, name: str, rows: int) -> Floats:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        table = self._weights.dense(name, rows, self._c.hidden)
        typed: Floats = x + table[self._types]
        return typed

    def add_norm(self, residual: Floats, x: Floats, name: str) -> Floats:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        return self.norm(residual + x, name)

    def add_and_norm(self, residual: Floats, x: Floats, name: str) -> tuple[Floats, Floats]:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        total = residual + x
        return total, self.norm(total, name)

    def norm(self, x: Floats, name: str) -> Floats:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        centred = x - x.mean(-1, keepdims=True)
        variance = np.mean(centred * centred, axis=-1, keepdims=True)
        weight = self._weights.vector(name, self._c.hidden)
        normed: Floats = centred / np.sqrt(variance + np.float32(self._c.norm_epsilon)) * weight
        if self._c.norm_bias:
            normed += self._weights.vector(f"{name}_bias", self._c.hidden)
        return normed

    def linear(self, x: Floats, columns: int, rows: Mapping[str, int], *, bias: bool) -> Floats:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        parts = [product(self._weights, x, name, n, columns) for name, n in rows.items()]
        total: Floats = np.concatenate(parts, axis=-1)
        return total + self.bias(rows) if bias else total

    def bias(self, rows: Mapping[str, int]) -> Floats:
        """Return the biases of matrices that stand side by side, ``float32[sum(rows)]``."""
        return self._weights.bias(rows)

    def attention(self, qkv: Floats, layer: int) -> Floats:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        return np.concatenate([self._attended(text, layer) for text in np.split(qkv, self._cuts)])

    def activated(
        self,
        x: Floats,
        columns: int,
        rows: Mapping[str, int],
        kind: EncoderActivation,
        *,
        bias: bool,
    ) -> Floats:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        return self.activation(self.linear(x, columns, rows, bias=bias), kind)

    def gated(
        self,
        x: Floats,
        columns: int,
        rows: Mapping[str, int],
        kind: EncoderActivation,
        *,
        bias: bool,
    ) -> Floats:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        return self.gate(self.linear(x, columns, rows, bias=bias), kind)

    def gate(self, gate_up: Floats, kind: EncoderActivation) -> Floats:
        """Return ``activation(gate) * up`` of two halves side by side."""
        gate, up = np.split(gate_up, 2, axis=-1)
        return self.activation(gate, kind) * up

    def activation(self, x: Floats, kind: EncoderActivation) -> Floats:
        """Apply an activation function."""
        return activated(x, kind)

    def pooled(self, x: Floats, kind: PoolingKind) -> Floats:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        return pooled(np.split(x, self._cuts), kind)

    def normalized(self, x: Floats) -> Floats:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        return normalized(x)

    def dense(self, x: Floats, at: str, layer: Dense) -> Floats:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        return through(self._weights, x, at, layer)

    def output(self, x: Floats, name: Output, width: int) -> None:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        del name, width
        self.embeddings = x

    def _attended(self, qkv: Floats, layer: int) -> Floats:
        """Attend within one text."""
        c = self._c
        # [heads, tokens, head_dim]
        q, k, v = (
            part.reshape(len(qkv), c.heads, c.head_dim).swapaxes(0, 1)
            for part in np.split(qkv, 3, axis=-1)
        )
        if c.rotary:
            tables = self._tables(c.rotary[layer].rope, len(qkv))
            q, k = rotated(q, *tables), rotated(k, *tables)
        scores: Floats = q @ k.swapaxes(1, 2) * np.float32(c.head_dim**-0.5)
        places = np.arange(len(qkv))
        later = places - places[:, None]
        if c.relative:
            scores += self._by_distance()[:, later + c.context_length - 1]
        scores[:, np.abs(later) > c.reach(layer)] = -np.inf
        np.exp(scores - scores.max(-1, keepdims=True), out=scores)
        scores /= scores.sum(-1, keepdims=True)
        joined: Floats = (scores @ v).swapaxes(0, 1).reshape(len(qkv), c.hidden)
        return joined

    def _tables(self, rope: Rope, tokens: int) -> tuple[Floats, Floats]:
        """Return cosines and sines of a text's positions."""
        if rope not in self._ropes:
            self._ropes[rope] = rope.tables(max(self._lengths))
        cos, sin = self._ropes[rope]
        return cos[:tokens], sin[:tokens]

    def _by_distance(self) -> Floats:
        """Return what scores have added, by how far apart tokens are."""
        if self._biases is None:
            table = self._weights.dense("distances", BUCKETS, self._c.heads)
            self._biases = by_distance(table, self._c.context_length)
        return self._biases
