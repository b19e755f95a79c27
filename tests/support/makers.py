"""What the fixtures that make models are called with and return."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rbee_export import Checkpoint

MakeLlama = Callable[..., Path]
MakeToolArtifact = Callable[[str], Path]
MakeFamily = Callable[..., Path]
MakeEncoder = Callable[..., Path]
MakeArtifact = Callable[..., Path]
OpenOnce = Callable[[Path], Checkpoint]


@dataclass(frozen=True, slots=True)
class TinyGguf:
    """A small GGUF file.

    Attributes:
        path: The file.
        source: The safetensors checkpoint it was made from.
        weights: What its tensors stand for, by the names they have in ``source``.
    """

    path: Path
    source: Path
    weights: Mapping[str, NDArray[np.float32]]


MakeGguf = Callable[..., TinyGguf]
