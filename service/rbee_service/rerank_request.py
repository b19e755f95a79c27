"""What clients may ask of a reranker, and the shapes they read.

They are those that Jina, Cohere, vLLM and llama.cpp have in common, and their clients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, NotRequired

from pydantic import Discriminator, Field, Tag
from typing_extensions import TypedDict

from rbee_runtime.embedding.request import MOST_INPUTS
from rbee_runtime.reranking.request import RerankRequest
from rbee_service.compact_json import json_array, json_bytes, json_object
from rbee_service.completion_request import WHOLE
from rbee_service.events import ScoreOutput
from rbee_service.inference import Account
from rbee_service.openai.unserved import Part


def _form(given: Any) -> str | None:
    if isinstance(given, str):
        return "a-text"
    return "an-object" if isinstance(given, dict | DocumentText) else None


class DocumentText(Part):
    """A document.

    Attributes:
        text: Its text.
    """

    text: str


_Document = Annotated[
    Annotated[str, Tag("a-text")] | Annotated[DocumentText, Tag("an-object")],
    Discriminator(
        _form,
        custom_error_type="document_form",
        custom_error_message="must be a text, or an object with one",
    ),
]


class RerankBody(Part):
    """The body of ``POST /v1/rerank``.

    Attributes:
        model: Must be the one that is served.
        query: What the documents are to answer.
        documents: Texts; of one that is too long to be read whole, the end is cut off.
        top_n: How many to tell of at most, the best; all where it is left out.
        return_documents: Whether they come back with their scores.
        user: Not looked at.
    """

    model: Annotated[str, Field(min_length=1, max_length=512)]
    query: Annotated[str, Field(min_length=1)]
    # To tell of every fault of a body of a megabyte takes seconds: the first is told.
    documents: Annotated[
        list[_Document], Field(min_length=1, max_length=MOST_INPUTS, fail_fast=True)
    ]
    top_n: Annotated[int, Field(ge=1), WHOLE] | None = None
    return_documents: bool = False
    user: str | None = None

    def texts(self) -> tuple[str, ...]:
        """Return the documents' texts."""
        return tuple(each if isinstance(each, str) else each.text for each in self.documents)

    def to_runtime(self, request_id: str, deadline: float | None) -> RerankRequest:
        """Return the reranker's form of this request.

        Args:
            request_id: Unique among live requests.
            deadline: ``time.monotonic()`` value, or ``None`` for no deadline.
        """
        return RerankRequest(request_id, self.query, self.texts(), deadline)


class DocumentBody(TypedDict):
    """A document."""

    text: str


class ScoreBody(TypedDict):
    """How well a document answers the query."""

    index: int
    relevance_score: float
    document: NotRequired[DocumentBody]


class RerankUsage(TypedDict):
    """A count of tokens: of the query and each document together."""

    prompt_tokens: int
    total_tokens: int


class RankingBody(TypedDict):
    """The documents of a request, the best first."""

    id: str
    model: str
    usage: RerankUsage
    results: list[ScoreBody]


def rerank_answer(
    body: RerankBody, name: str, scores: Sequence[ScoreOutput], account: Account
) -> Iterator[bytes | bytearray]:
    """Yield a :class:`RankingBody` as JSON.

    Args:
        body: What was asked.
        name: The answer's id.
        scores: Of all documents; of equal ones, the first stays first.
        account: Counts the tokens.
    """
    texts = body.texts()
    best = sorted(scores, key=lambda each: (-each.score, each.index))[: body.top_n]

    def told(each: ScoreOutput) -> bytes:
        result: ScoreBody = {"index": each.index, "relevance_score": each.score}
        if body.return_documents:
            result["document"] = {"text": texts[each.index]}
        return json_bytes(result)

    tokens = account.tokens_in
    usage: RerankUsage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json_object(
        {
            "id": [json_bytes(name)],
            "model": [json_bytes(body.model)],
            "usage": [json_bytes(usage)],
            "results": json_array([told(each)] for each in best),
        }
    )
