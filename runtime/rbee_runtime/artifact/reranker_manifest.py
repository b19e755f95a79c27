"""The content of ``artifact.json`` for a reranker."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from rbee_runtime.artifact.parts import Frozen
from rbee_runtime.artifact.text_manifest import TextManifest


class Scoring(Frozen):
    """What becomes of the hidden states of a query and a document, read as one text.

    Attributes:
        pooling: Which of its tokens count: the mean of all, or the first (``cls``).
        activation: What the number that is made of them goes through to be the score.
        token_types: Whether the graph is told which tokens are the document's.
    """

    pooling: Literal["mean", "cls"]
    activation: Literal["sigmoid", "identity"]
    token_types: bool


class RankingFidelity(Frozen):
    """How far an artifact's scores are from those of the checkpoint's weights in float32.

    Attributes:
        text: What queries and documents were made of: ``built-in``, or the name of a file.
        queries: How many queries there were.
        pairs: How many pairs of a query and a document.
        tokens: Of all of them.
        mean_difference: Of a score and its reference, on average.
        largest_difference: The same, of the pair that fares worst.
        agreement: Share of any two documents of a query that stand in the same order.
    """

    text: str
    queries: PositiveInt
    pairs: PositiveInt
    tokens: PositiveInt
    mean_difference: float
    largest_difference: float
    agreement: float


class RerankerManifest(TextManifest):
    """The content of the ``artifact.json`` of a reranker, format version 8.

    Attributes:
        scoring: What a document's score is.
        fidelity: Measured at export, unless that was skipped.
    """

    format_version: Literal[8] = 8
    task: Literal["rerank"] = "rerank"
    scoring: Scoring
    fidelity: RankingFidelity | None = None

    @property
    def output(self) -> tuple[str, int]:
        """What the graph gives each text: its name, and how many numbers."""
        return "scores", 1

    @property
    def token_types(self) -> bool:
        """Whether the graph is told each token's type."""
        return self.scoring.token_types
