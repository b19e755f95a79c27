"""The vectors that texts end as, worked out in NumPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rbee_export.checkpoint.pooling import Dense, PoolingKind
from rbee_export.dialect.encoder_activations import activated
from rbee_export.dialect.reference import Floats, product
from rbee_export.weights import Weights


def pooled(texts: Sequence[Floats], kind: PoolingKind) -> Floats:
    """Return one vector of each text's, ``float32[N, width]``.

    Args:
        texts: Vectors of the tokens of N texts, each ``float32[tokens, width]``.
        kind: Which of them count.
    """
    if kind == "mean":
        means: Floats = np.stack([text.mean(0) for text in texts]).astype(np.float32)
        return means
    return np.stack([text[0 if kind == "cls" else -1] for text in texts])


def through(weights: Weights, x: Floats, at: str, layer: Dense) -> Floats:
    """Return what a layer makes of vectors, ``float32[N, outputs]``.

    Args:
        weights: Those of the layer among them.
        x: The vectors, ``float32[N, inputs]``.
        at: What the names of its weights begin with.
        layer: The layer.
    """
    y = product(weights, x, at + "dense", layer.outputs, layer.inputs)
    if layer.bias:
        y += weights.vector(at + "dense_bias", layer.outputs)
    y = activated(y, layer.activation)
    if layer.norm is not None:
        y -= y.mean(-1, keepdims=True)
        y /= np.sqrt(np.mean(y * y, -1, keepdims=True) + np.float32(layer.norm.epsilon))
        y *= weights.vector(at + "norm", layer.outputs)
        if layer.norm.bias:
            y += weights.vector(at + "norm_bias", layer.outputs)
    return y


def normalized(x: Floats) -> Floats:
    """Return vectors, ``float32[N, width]``, divided by their length."""
    lengths: Floats = np.sqrt(np.sum(x * x, axis=-1, keepdims=True))
    of_length_one: Floats = x / lengths.clip(np.float32(1e-12))
    return of_length_one
