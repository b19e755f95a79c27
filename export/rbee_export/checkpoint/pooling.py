"""What becomes of a text's vectors, one a token, once the encoder is through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PoolingKind = Literal["mean", "cls", "last"]


@dataclass(frozen=True, slots=True)
class SentencePooling:
    """How one vector is made of a text's.

    Attributes:
        kind: Their mean, or the one of the first or of the last token.
        normalized: Whether it is divided by its length.
    """

    kind: PoolingKind = "mean"
    normalized: bool = False
