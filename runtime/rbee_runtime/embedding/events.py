"""What the embedder says while it serves a request.

A request's events come in this order: an :class:`Embedded` for each input, in their order, then
exactly one of :class:`EmbeddingsFinished` or :class:`~rbee_runtime.events.Failed`. A request that
is cancelled or fails has not got a vector for every input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rbee_runtime.events import Failed, StopReason


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """An input's vector is there.

    Attributes:
        index: Which input.
        vector: ``float32[dim]``, of length 1 where the manifest says so.
        tokens: Length of the input, special tokens included.
    """

    index: int
    vector: NDArray[np.float32]
    tokens: int


@dataclass(frozen=True, slots=True)
class EmbeddingsFinished:
    """The request is over.

    Attributes:
        reason: ``EOS`` when every input has its vector, or ``CANCELLED``.
        tokens: Of the inputs that have one, special tokens included.
        seconds: From the beginning of the first step that it was in to the end of the last.
    """

    reason: Literal[StopReason.EOS, StopReason.CANCELLED]
    tokens: int
    seconds: float


EmbeddingEvent = Embedded | EmbeddingsFinished | Failed
