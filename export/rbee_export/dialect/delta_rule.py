"""The convolution and the recurrences of layers with a state over a text, in NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rbee_export.checkpoint.config import DeltaNet

Floats = NDArray[np.float32]

_LEAST = np.float32(1e-6)
"""Added to the square of a length that is divided by."""


def convolved(x: Floats, filters: Floats) -> Floats:
    """Return each channel's sum over the latest tokens, weighed.

    Args:
        x: ``float32[T, channels]``.
        filters: ``float32[channels, 1, taps]``, for the token's own the last.
    """
    total = np.zeros_like(x)
    taps = filters.shape[-1]
    for tap in range(taps):
        ago = taps - 1 - tap
        total[ago:] += x[: len(x) - ago] * filters[:, 0, tap]
    return total


def delta_rule(qkv: Floats, kept: Floats, written: Floats, net: DeltaNet) -> Floats:
    """Return what each head reads of its state after each token.

    Args:
        qkv: Queries, keys and values, ``float32[T, channels]``.
        kept: How much of the state is kept, ``float32[T, value_heads]``.
        written: How much of what is new is written, alike.
        net: The dimensions.

    Returns:
        ``float32[T, value_heads, value_dim]``.
    """
    widths = [net.key_width, 2 * net.key_width]
    queries, keys, values = np.split(qkv, widths, axis=-1)
    q, k = (_of_length_one(part.reshape(len(qkv), -1, net.key_dim)) for part in (queries, keys))
    q *= np.float32(net.key_dim**-0.5)
    v = values.reshape(len(qkv), net.value_heads, net.value_dim)
    shared = net.value_heads // net.key_heads
    if net.tiled:
        q, k = (np.tile(part, (1, shared, 1)) for part in (q, k))
    else:
        q, k = (np.repeat(part, shared, axis=1) for part in (q, k))
    state = np.zeros((net.value_heads, net.key_dim, net.value_dim), np.float32)
    read = np.empty_like(v)
    for t in range(len(qkv)):
        state *= kept[t, :, None, None]
        known = np.matmul(k[t, :, None], state)[:, 0]
        state += k[t, :, :, None] * (written[t, :, None] * (v[t] - known))[:, None]
        read[t] = np.matmul(q[t, :, None], state)[:, 0]
    return read


def selective_state(x: Floats, b: Floats, c: Floats, kept: Floats, dt: Floats) -> Floats:
    """Return what each head of a state space reads of its state after each token.

    Args:
        x: What is written, ``float32[T, heads, head_dim]``.
        b: What it is written by, ``float32[T, state_dim]``.
        c: What it is read by, alike.
        kept: How much of the state is kept, ``float32[T, heads]``.
        dt: How much of what is new is written, alike.

    Returns:
        ``float32[T, heads, head_dim]``.
    """
    state = np.zeros((x.shape[1], b.shape[1], x.shape[2]), np.float32)
    read = np.empty_like(x)
    for t in range(len(x)):
        state *= kept[t, :, None, None]
        state += b[t, :, None] * (dt[t, :, None] * x[t])[:, None]
        read[t] = c[t] @ state
    return read


def _of_length_one(x: Floats) -> Floats:
    unit: Floats = x / np.sqrt(np.sum(x * x, axis=-1, keepdims=True) + _LEAST)
    return unit
