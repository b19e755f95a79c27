"""The ``reference`` dialect of an encoder: evaluated in NumPy, in float32.

Activations are ``float32[T, width]``: N texts of T tokens together, one after another. A few rows
of one weight are in memory at a time. What a graph computes is measured against this.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rbee_export.checkpoint.encoder_config import EncoderActivation, EncoderConfig
from rbee_export.checkpoint.pooling import PoolingKind
from rbee_export.dialect.reference import Floats, gelu_tanh, looked_up, product, silu
from rbee_export.dialect.text_vectors import normalized, pooled
from rbee_export.weights import Weights

_STEPS = 256
_WIDEST = 6
_ERF = np.asarray(
    [math.erf(step / _STEPS) for step in range(-_WIDEST * _STEPS, _WIDEST * _STEPS + 1)], np.float32
)
"""The error function between -6 and 6; beyond, it is 1 in float32."""


class EncoderReference:
    """An :class:`~rbee_export.encoder.EncoderDialect` that computes.

    Attributes:
        embeddings: One vector a text, ``float32[N, hidden]``, once the encoder is built.
    """

    def __init__(
        self, config: EncoderConfig, weights: Weights, texts: Sequence[Sequence[int]]
    ) -> None:
        self.embeddings: Floats = np.empty((0, config.hidden), np.float32)
        self._c = config
        self._weights = weights
        self._ids = np.concatenate([np.asarray(text, np.intp) for text in texts])
        self._lengths = [len(text) for text in texts]
        self._cuts = np.cumsum(self._lengths)[:-1]

    def embedding(self, name: str, rows: int) -> Floats:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        return looked_up(self._weights, name, rows, self._c.hidden, self._ids)

    def positions(self, name: str, added: str | None) -> Floats:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        table = self._weights.dense(name, self._c.context_length, self._c.hidden)
        own = np.concatenate([np.arange(length) for length in self._lengths])
        places: Floats = table[own]
        return places if added is None else places + self._weights.dense(added, 1, self._c.hidden)

    def add_norm(self, residual: Floats, x: Floats, name: str) -> Floats:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        total = residual + x
        centred = total - total.mean(-1, keepdims=True)
        variance = np.mean(centred * centred, axis=-1, keepdims=True)
        weight, bias = (
            self._weights.vector(part, self._c.hidden) for part in (name, f"{name}_bias")
        )
        normed: Floats = centred / np.sqrt(variance + np.float32(self._c.norm_epsilon))
        return normed * weight + bias

    def linear(self, x: Floats, columns: int, rows: Mapping[str, int]) -> Floats:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        parts = [product(self._weights, x, name, n, columns) for name, n in rows.items()]
        total: Floats = np.concatenate(parts, axis=-1) + self.bias(rows)
        return total

    def bias(self, rows: Mapping[str, int]) -> Floats:
        """Return the biases of matrices that stand side by side, ``float32[sum(rows)]``."""
        return self._weights.bias(rows)

    def attention(self, qkv: Floats) -> Floats:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        return np.concatenate([self._attended(text) for text in np.split(qkv, self._cuts)])

    def activated(
        self, x: Floats, columns: int, rows: Mapping[str, int], kind: EncoderActivation
    ) -> Floats:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        return self.activation(self.linear(x, columns, rows), kind)

    def activation(self, x: Floats, kind: EncoderActivation) -> Floats:
        """Apply an activation function."""
        if kind == "relu":
            return np.maximum(x, np.float32(0))
        if kind == "silu":
            return silu(x)
        if kind == "gelu_tanh":
            return gelu_tanh(x)
        gelu: Floats = np.float32(0.5) * x * (1 + _erf(x * np.float32(math.sqrt(0.5))))
        return gelu

    def pooled(self, x: Floats, kind: PoolingKind) -> Floats:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        return pooled(np.split(x, self._cuts), kind)

    def normalized(self, x: Floats) -> Floats:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        return normalized(x)

    def output(self, x: Floats) -> None:
        """See :class:`~rbee_export.encoder.EncoderDialect`."""
        self.embeddings = x

    def _attended(self, qkv: Floats) -> Floats:
        """Attend within one text."""
        c = self._c
        # [heads, tokens, head_dim]
        q, k, v = (
            part.reshape(len(qkv), c.heads, c.head_dim).swapaxes(0, 1)
            for part in np.split(qkv, 3, axis=-1)
        )
        scores: Floats = q @ k.swapaxes(1, 2) * np.float32(c.head_dim**-0.5)
        np.exp(scores - scores.max(-1, keepdims=True), out=scores)
        scores /= scores.sum(-1, keepdims=True)
        joined: Floats = (scores @ v).swapaxes(0, 1).reshape(len(qkv), c.hidden)
        return joined


def _erf(x: Floats) -> Floats:
    """Return the error function: from the nearest of a table's steps, two terms of its series."""
    x = np.clip(x, -_WIDEST, _WIDEST)
    step: NDArray[np.intp] = np.rint(x * _STEPS).astype(np.intp)
    near = step.astype(np.float32) / np.float32(_STEPS)
    away = x - near
    slope = np.float32(2 / math.sqrt(math.pi)) * np.exp(-near * near)
    erf: Floats = _ERF[step + _WIDEST * _STEPS] + away * slope * (1 - near * away)
    return erf
