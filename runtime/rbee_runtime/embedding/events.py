"""What the embedder says while it serves a request.

A request's events come in this order: an :class:`Embedded` for each input, in their order, then
exactly one of :class:`EmbeddingFinished` or :class:`~rbee_runtime.events.Failed`. A request that is
cancelled or fails has not got a vector for every input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rbee_runtime.events import Failed, StopReason

if TYPE_CHECKING:
    # A worker knows these events before it knows whether it will embed.
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """An input's vector is there.

    Attributes:
        request_id: Whose it is.
        index: Which input of the request.
        vector: ``float32[dim]``, of length 1 where the manifest says so.
    """

    request_id: str
    index: int
    vector: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EmbeddingFinished:
    """The request is over.

    Attributes:
        request_id: Which one.
        tokens: Of the inputs that have their vectors, special tokens included.
        seconds: From the beginning of the first step that it was in to the end of the last.
        stop: ``EOS`` when every input has its vector, or ``CANCELLED``.
    """

    request_id: str
    tokens: int
    seconds: float
    stop: Literal[StopReason.EOS, StopReason.CANCELLED]


EmbeddingEvent = Embedded | EmbeddingFinished | Failed
