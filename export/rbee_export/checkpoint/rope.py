"""Rotary position embeddings: which angle each pair of dimensions turns, at each position."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Frequency-dependent stretching, introduced with Llama 3.1.

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

    def apply(self, frequencies: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the stretched frequencies."""
        wavelengths = 2.0 * math.pi / frequencies
        # How far a wavelength lies from the long bound (0) towards the short one (1).
        span = self.high_freq_factor - self.low_freq_factor
        kept = np.clip((self.original_context / wavelengths - self.low_freq_factor) / span, 0, 1)
        stretched = frequencies / np.float32(self.factor)
        return ((1 - kept) * stretched + kept * frequencies).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Yarn:
    """NTK-by-parts interpolation (Peng et al. 2023, YaRN).

    Attributes:
        factor: How much the long wavelengths are stretched.
        original_context: Context length the model was first trained for.
        beta_fast: Pairs that turn more often than this over the original context are left alone.
        beta_slow: Pairs that turn less often than this are stretched whole.
        magnitude: Factor on cosines and sines; ``None`` for :func:`yarn_magnitude`.
        truncate: The bounds between which pairs are stretched in part are whole pairs.
    """

    factor: float
    original_context: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    magnitude: float | None = None
    truncate: bool = True

    def apply(self, frequencies: NDArray[np.float32], theta: float) -> NDArray[np.float32]:
        """Return the stretched frequencies."""
        pairs = len(frequencies)

        def pair_turning(times: float) -> float:
            turns = self.original_context / (times * 2 * math.pi)
            return pairs * math.log(turns) / math.log(theta)

        low, high = pair_turning(self.beta_fast), pair_turning(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, 2 * pairs - 1)
        places = np.arange(pairs, dtype=np.float64)
        stretched = np.clip((places - low) / max(high - low, 0.001), 0, 1)
        return (frequencies * (1 - stretched + stretched / self.factor)).astype(np.float32)


def yarn_magnitude(factor: float, share: float = 1.0) -> float:
    """Return YaRN's factor on cosines and sines for a stretching, or a share of its growth."""
    return 0.1 * share * math.log(factor) + 1.0 if factor > 1 else 1.0


@dataclass(frozen=True, slots=True)
class LongRope:
    """Two searched sets of divisors (Ding et al. 2024, LongRoPE).

    Attributes:
        short: Divisor of each frequency while a sequence fits the original context.
        long: Divisor of each frequency for longer sequences.
        original_context: Context length the model was first trained for.
        magnitude: Factor on cosines and sines.
    """

    short: tuple[float, ...]
    long: tuple[float, ...]
    original_context: int
    magnitude: float


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding (Su et al. 2021), halves rotated against each other.

    Attributes:
        theta: Base of the geometric series of wavelengths.
        dims: Leading dimensions of each head that are rotated; even.
        scaling: A linear factor on positions, or one of the schemes above; ``None`` for neither.
        divisors: One divisor per frequency, ``dims / 2`` of them, as GGUF stores Llama 3's scheme
            already worked out; ``None`` for none.
    """

    theta: float
    dims: int
    scaling: float | Llama3Scaling | Yarn | LongRope | None = None
    divisors: tuple[float, ...] | None = None

    @property
    def has_long_table(self) -> bool:
        """Whether sequences beyond :attr:`original_context` turn by other angles."""
        return isinstance(self.scaling, LongRope)

    @property
    def original_context(self) -> int:
        """Context length before any stretching, 0 where it is not known."""
        return 0 if isinstance(self.scaling, float | None) else self.scaling.original_context

    @property
    def magnitude(self) -> float:
        """Factor on cosines and sines."""
        if isinstance(self.scaling, Yarn):
            return self.scaling.magnitude or yarn_magnitude(self.scaling.factor)
        return self.scaling.magnitude if isinstance(self.scaling, LongRope) else 1.0

    def frequencies(self, *, long: bool = False) -> NDArray[np.float32]:
        """Return the angle each pair of dimensions turns a position, ``float32[dims / 2]``.

        Args:
            long: For a sequence beyond the original context.
        """
        exponents = np.arange(0, self.dims, 2, dtype=np.float32) / np.float32(self.dims)
        frequencies = (np.float32(1.0) / np.float32(self.theta) ** exponents).astype(np.float32)
        if self.divisors is not None:
            frequencies /= np.asarray(self.divisors, np.float32)
        match self.scaling:
            case None:
                return frequencies
            case Llama3Scaling():
                return self.scaling.apply(frequencies)
            case Yarn():
                return self.scaling.apply(frequencies, self.theta)
            case LongRope():
                divisors = self.scaling.long if long else self.scaling.short
                return (frequencies / np.asarray(divisors, np.float32)).astype(np.float32)
            case factor:
                return (frequencies / np.float32(factor)).astype(np.float32)

    def tables(
        self, positions: int, *, long: bool = False
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return cosines and sines of all angles, each ``float32[positions, dims / 2]``."""
        angles = np.outer(np.arange(positions, dtype=np.float32), self.frequencies(long=long))
        factor = np.float32(self.magnitude)
        cos: NDArray[np.float32] = np.cos(angles) * factor
        sin: NDArray[np.float32] = np.sin(angles) * factor
        return cos, sin

    def stored_tables(self, positions: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the tables a graph holds.

        With two sets of frequencies, those of the original context come first, then, from row
        :attr:`original_context` on, those of ``positions`` long ones.
        """
        if not self.has_long_table:
            return self.tables(positions)
        short, long = self.tables(self.original_context), self.tables(positions, long=True)
        return np.concatenate([short[0], long[0]]), np.concatenate([short[1], long[1]])
