"""What becomes of a text's vectors, one a token, once the encoder is through."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rbee_export.errors import CheckpointError

PoolingKind = Literal["mean", "cls", "last"]
VectorActivation = Literal["identity", "tanh", "relu", "gelu", "gelu_tanh", "silu", "sigmoid"]
Output = Literal["embeddings", "scores"]


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """A layer norm (Ba et al. 2016).

    Attributes:
        stem: What the names of its weights begin with.
        epsilon: Added to the variance.
        bias: Whether something is added.
    """

    stem: str
    epsilon: float
    bias: bool


@dataclass(frozen=True, slots=True)
class Dense:
    """A layer that a text's vector goes through: ``norm(activation(W x + b))``.

    Attributes:
        folder: The directory of its weights.
        inputs: Width of what it takes.
        outputs: Width of what it gives.
        bias: Whether there is ``b``.
        activation: The function.
        stem: What the names of its weights begin with in the files there.
        norm: The norm, if any.
    """

    folder: Path
    inputs: int
    outputs: int
    bias: bool = True
    activation: VectorActivation = "tanh"
    stem: str = "linear"
    norm: LayerNorm | None = None

    def stored(self, part: str) -> str | None:
        """Return the name under which a part of it is stored, ``None`` if it has no such part.

        Args:
            part: ``dense``, ``dense_bias``, ``norm`` or ``norm_bias``.
        """
        stems = {"dense": self.stem} | ({} if self.norm is None else {"norm": self.norm.stem})
        short, _, suffix = part.partition("_")
        return f"{stems[short]}.{suffix or 'weight'}" if short in stems else None


@dataclass(frozen=True, slots=True)
class SentencePooling:
    """How one vector is made of a text's.

    Attributes:
        kind: Their mean, or the one of the first or of the last token.
        normalized: Whether it is divided by its length.
        layers: What it goes through before.
        output: What the outcome is called.
    """

    kind: PoolingKind = "mean"
    normalized: bool = False
    layers: tuple[Dense, ...] = ()
    output: Output = "embeddings"

    def named_layers(self) -> Iterator[tuple[str, Dense]]:
        """Yield what the names of each layer's weights begin with, ``vectors.{i}.``, and it."""
        for i, layer in enumerate(self.layers):
            yield f"vectors.{i}.", layer

    def width(self, hidden: int) -> int:
        """Return the width of a text's vector.

        Args:
            hidden: That of a token's.
        """
        return self.layers[-1].outputs if self.layers else hidden

    def check(self, hidden: int) -> None:
        """Check that each layer takes what the one before it gives.

        Raises:
            CheckpointError: One does not.
        """
        for layer in self.layers:
            if layer.inputs != hidden:
                raise CheckpointError(
                    f"{layer.folder}: takes vectors of {layer.inputs} numbers, but what comes "
                    f"before it gives {hidden}"
                )
            hidden = layer.outputs
