"""The content of ``artifact.json`` for a model of embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import PositiveInt, model_validator

from rbee_runtime.artifact.parts import Frozen, Sparse
from rbee_runtime.artifact.text_manifest import TextManifest


class Embedding(Sparse):
    """What becomes of the hidden states of a text's tokens.

    Attributes:
        dim: Width of a vector.
        pooling: Which of them count: the mean of all, the first (``cls``), or the last.
        normalized: Whether vectors are of length 1.
        prompt: What is put before every text: the prompt that the model was trained with.
        prompts: What may be put there instead, by name.
        matryoshka: Lengths below ``dim`` that vectors may be cut to, and then made of length 1
            again: the model was trained for it.
    """

    dim: PositiveInt
    pooling: Literal["mean", "cls", "last"]
    normalized: bool
    prompt: str = ""
    prompts: Mapping[str, str] = {}
    matryoshka: Literal["any"] | tuple[PositiveInt, ...] = ()

    OPTIONAL: ClassVar = ("prompts", "matryoshka")

    @model_validator(mode="after")
    def _cuts_are_shorter(self) -> Self:
        if self.matryoshka != "any" and any(length >= self.dim for length in self.matryoshka):
            raise ValueError("matryoshka lists lengths below dim")
        return self

    def may_have(self, dimensions: int) -> bool:
        """Return whether vectors may be of this length: whole, or cut."""
        if self.matryoshka == "any":
            return 1 <= dimensions <= self.dim
        return dimensions == self.dim or dimensions in self.matryoshka


class EmbeddingFidelity(Frozen):
    """How far an artifact's vectors are from those of the checkpoint's weights in float32.

    Attributes:
        text: What was embedded: ``built-in``, or the name of a file.
        texts: How many texts it was cut into.
        tokens: Of all of them.
        mean_cosine: Cosine of a vector and its reference, on average.
        least_cosine: The same, of the text that fares worst.
        agreement: Share of texts whose nearest neighbour among the others is the same.
    """

    text: str
    texts: PositiveInt
    tokens: PositiveInt
    mean_cosine: float
    least_cosine: float
    agreement: float


class EmbedderManifest(TextManifest):
    """The content of the ``artifact.json`` of a model of embeddings, format version 5.

    Attributes:
        embedding: What a text's vector is.
        fidelity: Measured at export, unless that was skipped.
    """

    format_version: Literal[5] = 5
    task: Literal["embed"] = "embed"
    embedding: Embedding
    fidelity: EmbeddingFidelity | None = None

    @property
    def output(self) -> tuple[str, int]:
        """What the graph gives each text: its name, and how many numbers."""
        return "embeddings", self.embedding.dim

    @property
    def token_types(self) -> bool:
        """Whether the graph is told each token's type: a text has one alone."""
        return False
