"""What the reranker says while it serves a request.

A request's events come in this order: a :class:`Scored` for each document, in their order, then
exactly one of :class:`~rbee_runtime.embedding.events.EmbeddingFinished` or
:class:`~rbee_runtime.events.Failed`, as an embedder's.
"""

from __future__ import annotations

from dataclasses import dataclass

from rbee_runtime.embedding.events import EmbeddingFinished
from rbee_runtime.events import Failed


@dataclass(frozen=True, slots=True)
class Scored:
    """A document's score is there.

    Attributes:
        request_id: Whose it is.
        index: Which document of the request.
        score: How well it answers the query: the more, the better.
    """

    request_id: str
    index: int
    score: float


RerankEvent = Scored | EmbeddingFinished | Failed
