"""Activation functions, in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from rbee_export.checkpoint.config import Activation, Experts

Floats = NDArray[np.float32]

_GELU = np.float32(np.sqrt(2 / np.pi))


def sigmoid(x: Floats) -> Floats:
    """Return ``1 / (1 + exp(-x))``."""
    with np.errstate(over="ignore"):
        share: Floats = np.reciprocal(1 + np.exp(-x))
    return share


def expert_gate(gate: Floats, up: Floats, experts: Experts) -> Floats:
    """Return what becomes of an expert's two projections, which :class:`Experts` says."""
    if not experts.clamped:
        return silu(gate) * up
    own = np.minimum(gate, np.float32(7))
    active = own * sigmoid(np.float32(1.702) * own)
    return active * (np.clip(up, np.float32(-7), np.float32(7)) + 1)


def silu(x: Floats) -> Floats:
    """Return ``x * sigmoid(x)``."""
    with np.errstate(over="ignore"):
        active: Floats = x / (1 + np.exp(-x))
    return active


def relu2(x: Floats) -> Floats:
    """Return the square of what is positive (So et al. 2021)."""
    squared: Floats = np.square(np.maximum(x, 0))
    return squared


def gelu_tanh(x: Floats) -> Floats:
    """Return GELU in its approximation by ``tanh``."""
    cubic: Floats = np.tanh(_GELU * (x + np.float32(0.044715) * x * x * x))
    return np.float32(0.5) * x * (1 + cubic)


ACTIVATIONS: Mapping[Activation, Callable[[Floats], Floats]] = MappingProxyType(
    {"silu": silu, "gelu_tanh": gelu_tanh, "relu2": relu2}
)
"""By the names that configurations have for them."""
