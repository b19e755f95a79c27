"""What a caller asks of the reranker."""

from __future__ import annotations

from dataclasses import dataclass

from rbee_runtime.embedding.request import MOST_INPUTS
from rbee_runtime.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class RerankRequest:
    """Documents to score.

    Attributes:
        request_id: Names the request in :meth:`Reranker.cancel` and in logs; unique among live
            ones.
        query: What the documents are to answer.
        documents: Each read beside the query; what the model cannot read of one is cut off.
        deadline: ``time.monotonic()`` value past which the request fails with ``DeadlineExceeded``;
            ``None`` means never.

    Raises:
        InvalidRequest: The query is empty, there is no document, or there are more than 2,048.
    """

    request_id: str
    query: str
    documents: tuple[str, ...]
    deadline: float | None = None

    def __post_init__(self) -> None:
        if not self.query:
            raise InvalidRequest("query", "query must not be empty")
        if not self.documents:
            raise InvalidRequest("documents", "documents must not be empty")
        if len(self.documents) > MOST_INPUTS:
            raise InvalidRequest(
                "documents",
                f"documents are {len(self.documents)}, and a request may have {MOST_INPUTS}; "
                "send several",
            )
