"""A decoder's hyper-parameters, whatever kind of file they came from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Frequency-dependent stretching of the rotary embedding, introduced with Llama 3.1.

    Attributes:
        factor: How much the long wavelengths are stretched.
        low_freq_factor: Wavelengths above ``original_context / low_freq_factor`` are stretched
            whole.
        high_freq_factor: Wavelengths below ``original_context / high_freq_factor`` are left alone.
        original_context: Context length the model was first trained for.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding (Su et al. 2021), halves rotated against each other.

    Attributes:
        theta: Base of the geometric series of wavelengths.
        scaling: A linear factor on positions, or Llama 3's scheme; ``None`` for neither.
        divisors: One divisor per frequency, ``head_dim / 2`` of them, as GGUF stores Llama 3's
            scheme already worked out; ``None`` for none.
    """

    theta: float
    scaling: float | Llama3Scaling | None = None
    divisors: tuple[float, ...] | None = None

    def frequencies(self, head_dim: int) -> NDArray[np.float32]:
        """Return the angle each pair of dimensions turns a position, ``float32[head_dim / 2]``."""
        exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
        frequencies = (np.float32(1.0) / np.float32(self.theta) ** exponents).astype(np.float32)
        if self.divisors is not None:
            frequencies /= np.asarray(self.divisors, np.float32)
        if isinstance(self.scaling, Llama3Scaling):
            return _llama3(frequencies, self.scaling)
        if self.scaling is not None:
            return frequencies / np.float32(self.scaling)
        return frequencies

    def tables(
        self, head_dim: int, positions: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return cosines and sines of all angles, each ``float32[positions, head_dim / 2]``."""
        angles = np.outer(np.arange(positions, dtype=np.float32), self.frequencies(head_dim))
        return np.cos(angles), np.sin(angles)


def _llama3(frequencies: NDArray[np.float32], scaling: Llama3Scaling) -> NDArray[np.float32]:
    wavelengths = 2.0 * math.pi / frequencies
    # How far a wavelength lies from the long bound (0) towards the short one (1).
    span = scaling.high_freq_factor - scaling.low_freq_factor
    kept = np.clip((scaling.original_context / wavelengths - scaling.low_freq_factor) / span, 0, 1)
    stretched = frequencies / np.float32(scaling.factor)
    return ((1 - kept) * stretched + kept * frequencies).astype(np.float32)


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """What the decoder definition needs to know besides the weights.

    Attributes:
        family: Row of the family table.
        layers: Decoder blocks.
        hidden: Width of the residual stream.
        intermediate: Width inside the MLP.
        heads: Query heads.
        kv_heads: Key and value heads; divides ``heads``.
        head_dim: Width of one head; even.
        vocab: Rows of the embedding.
        context_length: Positions the model was made for.
        norm_epsilon: Added to the mean square inside RMS normalisation.
        rope: Rotary embedding.
        tied_embedding: The output projection is the embedding.
    """

    family: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context_length: int
    norm_epsilon: float
    rope: Rope
    tied_embedding: bool
