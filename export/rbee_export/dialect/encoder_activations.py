"""Activation functions of encoders and of what comes after them, in NumPy."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from rbee_export.checkpoint.encoder_config import EncoderActivation
from rbee_export.checkpoint.pooling import VectorActivation
from rbee_export.dialect.activations import Floats, gelu_tanh, sigmoid, silu

_STEPS = 256
_WIDEST = 6
_ERF = np.asarray(
    [math.erf(step / _STEPS) for step in range(-_WIDEST * _STEPS, _WIDEST * _STEPS + 1)], np.float32
)
"""The error function between -6 and 6; beyond, it is 1 in float32."""


def activated(x: Floats, kind: EncoderActivation | VectorActivation) -> Floats:
    """Apply an activation function."""
    match kind:
        case "identity":
            return x
        case "tanh":
            return np.tanh(x)
        case "relu":
            return np.maximum(x, np.float32(0))
        case "silu":
            return silu(x)
        case "gelu_tanh":
            return gelu_tanh(x)
        case "gelu":
            gelu: Floats = np.float32(0.5) * x * (1 + _erf(x * np.float32(math.sqrt(0.5))))
            return gelu
        case "sigmoid":
            return sigmoid(x)


def _erf(x: Floats) -> Floats:
    """Return the error function: from the nearest of a table's steps, two terms of its series."""
    x = np.clip(x, -_WIDEST, _WIDEST)
    step: NDArray[np.intp] = np.rint(x * _STEPS).astype(np.intp)
    near = step.astype(np.float32) / np.float32(_STEPS)
    away = x - near
    slope = np.float32(2 / math.sqrt(math.pi)) * np.exp(-near * near)
    erf: Floats = _ERF[step + _WIDEST * _STEPS] + away * slope * (1 - near * away)
    return erf
