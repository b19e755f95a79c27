"""Attention of packed texts, as a softmax in float64."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def packed(
    rng: np.random.Generator, lengths: list[int], heads: int, size: int
) -> dict[str, NDArray[Any]]:
    """Return random queries, keys and values of texts that are so long."""
    qkv = rng.standard_normal((1, sum(lengths), 3 * heads * size), np.float32)
    return {"qkv": qkv, "cu_seqlens": np.cumsum([0, *lengths], dtype=np.int32)}


def attended(
    qkv: Floats,
    ends: NDArray[np.int32],
    heads: int,
    kept: Any = np.float32,
    *,
    biases: Floats | None = None,
) -> NDArray[np.float64]:
    """Return ``[1, tokens, width]``, of queries, keys and values as ``kept`` holds them.

    ``biases``, ``[heads, 2 * longest - 1]``, are added to scores by how far apart tokens are.
    """
    q, k, v = np.split(qkv[0], 3, axis=-1)
    size = q.shape[-1] // heads
    q = q / np.float32(np.sqrt(size))
    q, k, v = (x.astype(kept).astype(np.float64).reshape(len(x), heads, size) for x in (q, k, v))
    y = np.empty_like(q)
    for start, end in pairwise(ends):
        scores = likeness(q[start:end], k[start:end])
        if biases is not None:
            places = np.arange(end - start)
            scores += biases[:, places - places[:, None] + biases.shape[1] // 2]
        y[start:end] = weighted(scores, v[start:end])
    return y.reshape(1, len(y), -1)


def likeness(q: NDArray[np.float64], k: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the products of queries and keys, ``[tokens, heads, size]``, by head."""
    return q.swapaxes(0, 1) @ k.transpose(1, 2, 0)


def weighted(scores: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the values of each head, ``[tokens, heads, size]``, weighted by softmax of scores."""
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return (weights @ v.swapaxes(0, 1)).swapaxes(0, 1)
