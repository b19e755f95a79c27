"""What becomes of a text's vectors, one a token, once the encoder is through."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rbee_export.errors import CheckpointError

PoolingKind = Literal["mean", "cls", "last"]
VectorActivation = Literal["identity", "tanh"]


@dataclass(frozen=True, slots=True)
class Dense:
    """A layer that a text's vector goes through: ``activation(W x + b)``.

    Attributes:
        folder: The directory of its weights.
        inputs: Width of what it takes.
        outputs: Width of what it gives.
        bias: Whether there is ``b``.
        activation: The function.
    """

    folder: Path
    inputs: int
    outputs: int
    bias: bool = True
    activation: VectorActivation = "tanh"


@dataclass(frozen=True, slots=True)
class SentencePooling:
    """How one vector is made of a text's.

    Attributes:
        kind: Their mean, or the one of the first or of the last token.
        normalized: Whether it is divided by its length.
        layers: What it goes through before.
    """

    kind: PoolingKind = "mean"
    normalized: bool = False
    layers: tuple[Dense, ...] = ()

    def named_layers(self) -> Iterator[tuple[str, Dense]]:
        """Yield the name of each layer's matrix, ``vectors.{i}.dense``, and the layer."""
        for i, layer in enumerate(self.layers):
            yield f"vectors.{i}.dense", layer

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
