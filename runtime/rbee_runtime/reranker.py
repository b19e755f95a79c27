"""A reranker at one's service."""

from __future__ import annotations

import queue
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rbee_runtime.artifact import RerankerArtifact, RerankerManifest
from rbee_runtime.embedding.encoder import Encoder
from rbee_runtime.embedding.events import Embedded, EmbeddingEvent
from rbee_runtime.embedding.packer import Text
from rbee_runtime.embedding.request import MOST_INPUTS
from rbee_runtime.errors import EngineClosed, InvalidRequest
from rbee_runtime.events import StopReason
from rbee_runtime.reranking.events import RerankEvent, Scored
from rbee_runtime.reranking.pairs import PairTokenizer
from rbee_runtime.reranking.request import RerankRequest
from rbee_runtime.text_model import DEFAULT_QUEUE, TextModel
from rbee_runtime.watchdog import DEFAULT_STEP_LIMIT

Sink = Callable[[RerankEvent], None]
"""Takes a request's events, on the reranker's thread: it must return at once."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """A document in its place among others.

    Attributes:
        index: Which of the documents.
        score: How well it answers the query: the more, the better.
    """

    index: int
    score: float


class Reranker(TextModel[PairTokenizer]):
    """Scores how well documents answer a query, each read beside it; many requests together.

        with Reranker.load(Path("artifacts/model")) as reranker:
            best, *others = reranker.rank("how do bees find home", documents)

    Every method may be called from any thread.

    Attributes:
        manifest: The artifact's manifest.
    """

    tokenizer_kind: ClassVar = PairTokenizer

    def __init__(
        self,
        artifact: RerankerArtifact,
        tokenizer: PairTokenizer,
        encoder: Encoder,
        max_queue: int = DEFAULT_QUEUE,
        *,
        step_limit: float = DEFAULT_STEP_LIMIT,
    ) -> None:
        super().__init__(artifact, tokenizer, encoder, max_queue, step_limit=step_limit)
        self.manifest: RerankerManifest = artifact.manifest

    @classmethod
    def open_artifact(cls, path: Path) -> RerankerArtifact:
        """See :class:`~rbee_runtime.text_model.TextModel`."""
        return RerankerArtifact.open(path)

    def submit(self, request: RerankRequest, sink: Sink) -> None:
        """Queue a request, whose events go to ``sink``. Returns once its texts are tokenized.

        Raises:
            InvalidRequest: A text is not of this model, or the request's id is already in use.
            ContextOverflow: The query leaves no room for a document.
            QueueFull: The waiting line is at its limit.
            EngineClosed: The reranker no longer takes requests.
        """
        texts = self._read(request.request_id, request.query, request.documents)

        def scored(event: EmbeddingEvent) -> None:
            if isinstance(event, Embedded):
                sink(Scored(event.request_id, event.index, float(event.vector[0])))
            else:
                sink(event)

        self._loop.submit(request.request_id, request.deadline, texts, scored)

    def score(self, query: str, documents: Sequence[str]) -> NDArray[np.float32]:
        """Return the scores of documents, however many, in their order: ``float32[documents]``.

        Of a document that is too long to be read whole, the end is cut off.

        Args:
            query: What they are to answer.
            documents: Texts.

        Raises:
            RuntimeFault: As :meth:`submit`, or what scoring them failed with: ``EngineClosed`` if
                the reranker is closed before the last score.
        """
        if isinstance(documents, str):
            raise InvalidRequest("documents", "documents must be a list of texts, not a text")
        if not query:
            raise InvalidRequest("query", "query must not be empty")
        scores = np.empty(len(documents), np.float32)
        for first in range(0, len(documents), MOST_INPUTS):
            some = documents[first : first + MOST_INPUTS]
            request_id = f"rerank-{uuid.uuid4().hex}"
            texts = self._read(request_id, query, some, first=first)
            heard: queue.SimpleQueue[EmbeddingEvent] = queue.SimpleQueue()
            try:
                self._loop.serve(request_id, texts, heard.put)
                for event in self._events(heard):
                    if isinstance(event, Embedded):
                        scores[first + event.index] = event.vector[0]
                    elif event.stop is StopReason.CANCELLED:
                        raise EngineClosed("the reranker was closed before the last score")
            finally:
                self.cancel(request_id)
        return scores

    def rank(
        self, query: str, documents: Sequence[str], *, top_n: int | None = None
    ) -> list[Ranked]:
        """Return documents, the best first; of equal ones, the one that came first.

        Args:
            query: See :meth:`score`.
            documents: See :meth:`score`.
            top_n: How many to return at most; ``None`` for all.

        Raises:
            RuntimeFault: As :meth:`score`.
        """
        scores = self.score(query, documents)
        order = np.argsort(-scores, kind="stable")[:top_n]
        return [Ranked(int(index), float(scores[index])) for index in order]

    def _read(
        self, request_id: str, query: str, documents: Sequence[str], *, first: int = 0
    ) -> list[Text]:
        """Tokenize documents, each beside the query.

        Args:
            request_id: Whose they are.
            query: What comes first in each.
            documents: What comes second.
            first: Number of the first one, in an error.
        """
        names = [f"documents[{first + i}]" for i in range(len(documents))]
        pairs = self.tokenizer.pairs(query, documents, self.context_length, names)
        types = self.manifest.token_types
        return [
            Text(
                request_id,
                i,
                self._checked(pair.ids, names[i]),
                np.array(pair.types, np.int32) if types else None,
            )
            for i, pair in enumerate(pairs)
        ]
